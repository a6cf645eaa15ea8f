"""POST /v1/embeddings: the mean of a text's last hidden states, as a vector of length 1.

Workers do the arithmetic; a vector comes as float32 bytes. They are sent on as base64, or, for
clients that want numbers, printed: nine digits give each float32 back exactly.
"""

import asyncio
import base64
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.admission import Admission
from gateway.api.body import read_object, unless_gone
from gateway.api.door import caller_of
from gateway.api.openapi import body_schema
from gateway.api.parted import PartedResponse
from gateway.api.texts import ReadRequest, Texts, parse, tokens_of
from gateway.api.written import Whole
from gateway.keys import Caller
from gateway.reader import Rows
from gateway.served import ServedModel
from gateway.services import Services
from shared.errors import GenerationFailed, RequestError
from shared.wire.messages import Reading

PATHS: Final = ("/v1/embeddings", "/embeddings")

MAX_TEXTS: Final = 2048
MAX_TOKENS: Final = 300_000
"""Of all texts together. Both are OpenAI's:
https://platform.openai.com/docs/api-reference/embeddings/create"""
MAX_AT_A_TIME: Final = 8
"""Texts of one request that are read at a time: one when its turn comes, the others while there
are slots that nobody waits for."""
PRINTED_BYTES: Final = 16
BASE64_BYTES: Final = 8
"""The most that an element takes, in the answer and on the way there."""


class EmbeddingsRequest(ReadRequest):
    """One text or several; for each, the mean of its last hidden states at length 1."""

    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: (
        Annotated[Whole, Field(ge=1, description="how many of the first elements to keep")] | None
    ) = None


@dataclass(frozen=True)
class Asked:
    """A valid request."""

    caller: Caller
    model: ServedModel
    request: EmbeddingsRequest
    texts: Sequence[tuple[int, ...]]
    headers: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        """How much the answer may come to."""
        width = self.request.dimensions or self.model.spec.hidden_size
        is_float = self.request.encoding_format == "float"
        return len(self.texts) * width * (PRINTED_BYTES if is_float else BASE64_BYTES)


def embeddings_routes(services: Services) -> APIRouter:
    """The route and its alias."""
    router = APIRouter(tags=["embeddings"])

    async def create(request: Request) -> Response:
        body = await read_object(request, services.max_body_bytes)
        asked = await _asked(services, caller_of(request), body)
        return await _answer(services, request, asked)

    for path in PATHS:
        router.add_api_route(
            path,
            create,
            methods=["POST"],
            response_model=None,
            openapi_extra=body_schema(EmbeddingsRequest),
        )
    return router


async def _asked(services: Services, caller: Caller, body: Mapping[str, Any]) -> Asked:
    request, headers = parse(EmbeddingsRequest, body)
    model = services.model_for(caller, request.model, is_stream=False)
    if len(request.input) > MAX_TEXTS:
        raise _wrong("input", f"should be at most {MAX_TEXTS} texts")
    if request.dimensions and request.dimensions > model.spec.hidden_size:
        raise _wrong("dimensions", f"should be at most {model.spec.hidden_size}")
    texts = [await tokens_of(model, text, request) for text in request.input]
    if (num_tokens := sum(map(len, texts))) > MAX_TOKENS:
        raise _wrong("input", f"should hold at most {MAX_TOKENS} tokens, not {num_tokens}")
    told = headers | {"x-model-revision": model.spec.revision}
    return Asked(caller, model, request, texts, told)


def _wrong(param: str, sentence: str) -> RequestError:
    message = f"Invalid value for '{param}': {sentence}."
    return RequestError(message, param=param, reason="invalid_value")


async def _answer(services: Services, request: Request, asked: Asked) -> Response:
    give_back = services.room.take(
        asked.num_bytes, param="input", remedy="send fewer texts or ask for base64"
    )
    try:
        vectors = await unless_gone(request, _embed(services.admission, asked))
    except BaseException:
        give_back()
        raise
    return PartedResponse(
        list(_body(asked, vectors)),
        media_type="application/json",
        headers=asked.headers,
        on_end=give_back,
    )


async def _embed(admission: Admission, asked: Asked) -> list[bytes]:
    """The embedding of each text, as it stands in the answer."""
    vectors = [b""] * len(asked.texts)
    waiting = iter(enumerate(asked.texts))

    async def embed(may_go_on: Callable[[], bool]) -> None:
        while may_go_on() and (following := next(waiting, None)):
            index, text = following
            reading = Reading("mean", (len(text) - 1,), dimensions=asked.request.dimensions or 0)
            (rows,) = (await asked.model.generator.read(text, reading)).values()
            vectors[index] = _written(rows, asked.request.encoding_format)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(embed(lambda: True))
            for _ in range(min(len(asked.texts), MAX_AT_A_TIME) - 1):
                group.create_task(embed(lambda: admission.has_spare_slot(asked.caller)))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return vectors


def _written(rows: Rows, encoding: Literal["float", "base64"]) -> bytes:
    """A vector as JSON."""
    vector = b"".join(rows.parts)
    if rows.dtype != "float32":
        raise GenerationFailed("bad_answer", f"a worker gave an embedding in {rows.dtype}")
    if encoding == "base64":
        return b'"' + base64.b64encode(vector) + b'"'
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b"[" + ",".join(map("%.9g".__mod__, numbers)).encode() + b"]"


def _body(asked: Asked, vectors: Sequence[bytes]) -> Iterator[bytes]:
    yield b'{"object":"list","data":['
    for index, vector in enumerate(vectors):
        comma = b"," if index else b""
        yield comma + b'{"object":"embedding","index":%d,"embedding":' % index
        yield vector + b"}"
    num_tokens = sum(map(len, asked.texts))
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    end = msgspec.json.encode({"model": asked.request.model, "usage": usage})
    yield b"]," + end[1:]
