"""From a request for states or logits of one text to a safetensors file of them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.body import read_object, unless_gone
from gateway.api.door import caller_of
from gateway.api.openapi import body_schema
from gateway.api.parted import PartedResponse
from gateway.api.schema import Message
from gateway.api.texts import OneText, ReadRequest, check_fits, tokens_of
from gateway.api.written import Whole
from gateway.keys import Caller
from gateway.reader import Rows
from gateway.served import ServedModel
from gateway.services import Services
from gateway.tensor_file import TensorBytes, tensor_file
from shared.errors import RequestError
from shared.wire.codec import pack_ids
from shared.wire.messages import Reading, row_bytes

MEDIA_TYPE: Final = "application/octet-stream"
DOCUMENTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A safetensors file. Beside what was asked for it holds `token_ids`, those "
        "of the text, and `positions`, those the rows are of, in ascending order.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}

Positions = Annotated[
    list[Whole],
    Field(
        min_length=1,
        fail_fast=True,
        description="after which tokens, 0 being the first and -1 the last",
    ),
]


class OneTextRequest(ReadRequest):
    """A request to read one text: `input` or `messages`."""

    input: OneText = None
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)] | None = None
    positions: Positions | None = None


@dataclass(frozen=True)
class Asked:
    """A valid request: what to read of which tokens, and what the answer's tensors are named.

    `num_bytes` is how much that may come to.
    """

    model: ServedModel
    tokens: tuple[int, ...]
    reading: Reading
    names: Mapping[int, str]
    num_bytes: int
    headers: Mapping[str, str]


Ask = Callable[[Services, Caller, Mapping[str, Any]], Awaitable[Asked]]
"""What a body means. Raises RequestError."""


def reading_routes(
    services: Services, paths: Iterable[str], body: type[OneTextRequest], asked: Ask
) -> APIRouter:
    """A route under its paths, for requests that look like `body` and mean what `asked` says."""
    router = APIRouter(tags=["states"])

    async def create(request: Request) -> Response:
        given = await read_object(request, services.max_body_bytes)
        return await _answer(services, request, await asked(services, caller_of(request), given))

    for path in paths:
        router.add_api_route(
            path,
            create,
            methods=["POST"],
            response_model=None,
            response_class=Response,
            responses=DOCUMENTED,
            openapi_extra=body_schema(body),
        )
    return router


async def one_text(model: ServedModel, request: OneTextRequest) -> tuple[int, ...]:
    """The token ids of the text. Raises RequestError."""
    if (request.input is None) == (request.messages is None):
        raise RequestError(
            "Give either 'input' or 'messages'.",
            param="input",
            reason="missing_required_parameter" if request.input is None else "invalid_value",
        )
    if request.messages is None:
        return await tokens_of(model, request.input, request)
    messages = [message.for_template() for message in request.messages]
    tokens = await asyncio.to_thread(model.text.render, messages)
    check_fits(model, tokens, "messages")
    return tokens


def places(asked: Sequence[int], count: int, param: str) -> tuple[int, ...]:
    """Places among `count` in ascending order, those below 0 counted from the end.

    Raises RequestError for one that is not there, or is named twice.
    """
    for index, place in enumerate(asked):
        if not -count <= place < count:
            raise RequestError(
                f"Invalid value for '{param}[{index}]': should be from {-count} to {count - 1}.",
                param=f"{param}[{index}]",
                reason="invalid_value",
            )
    found = sorted({place % count for place in asked})
    if len(found) < len(asked):
        sentence = f"Invalid value for '{param}': none should be named twice."
        raise RequestError(sentence, param=param, reason="invalid_value")
    return tuple(found)


def size_of(num_rows: int, width: int) -> int:
    """The most bytes that rows can come to: as float32."""
    return num_rows * row_bytes("float32", width)


async def _answer(services: Services, request: Request, asked: Asked) -> Response:
    """Read it and send it; if the client does not wait for it, stop."""
    give_back = services.room.take(
        asked.num_bytes, param="positions", remedy="ask for fewer positions or blocks"
    )
    try:
        reading = asked.model.generator.read(asked.tokens, asked.reading)
        rows = await unless_gone(request, reading)
    except BaseException:
        give_back()
        raise
    parts = tensor_file(_tensors(asked, rows), _metadata(asked))
    return PartedResponse(parts, media_type=MEDIA_TYPE, headers=asked.headers, on_end=give_back)


def _tensors(asked: Asked, rows: Mapping[int, Rows]) -> dict[str, TensorBytes]:
    read = {
        name: TensorBytes(its.dtype, (its.count, its.width), its.parts)
        for name, its in ((name, rows[block]) for block, name in asked.names.items())
    }
    ids = {"positions": asked.reading.positions, "token_ids": asked.tokens}
    return read | {
        name: TensorBytes("int32", (len(values),), (pack_ids(values),))
        for name, values in ids.items()
    }


def _metadata(asked: Asked) -> dict[str, str]:
    return {"model": asked.model.spec.name, "revision": asked.model.spec.revision}
