"""/v1/responses: from a request to a response, whole or streamed, and what is kept of it."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api.body import read_object, unless_gone
from gateway.api.call import count_prompt
from gateway.api.conversation import Conversation, begin_conversation
from gateway.api.door import caller_of
from gateway.api.errors import report, request_id_of
from gateway.api.event_stream import held_stream
from gateway.api.foreign import event_frame, headers_of, ids_of, told_as
from gateway.api.logprobs import logprobs_object
from gateway.api.openapi import body_schema
from gateway.api.paging import Paging
from gateway.api.responses.answer import Frame, status_of, usage_of
from gateway.api.responses.chat_body import PLACES, chat_body
from gateway.api.responses.items import InputItem, Item, as_items
from gateway.api.responses.output import Event, Output
from gateway.api.responses.schema import WITH_REASONING, Parsed, ResponseRequest, parse_response
from gateway.api.responses.stored import Record, Shelf
from gateway.api.responses.tools import ToolBook
from gateway.api.resume import KEY_HEADERS, Wish, key_wish_of
from gateway.generator import Token
from gateway.services import Services
from shared.errors import RequestError

BASES: Final = ("/v1/responses", "/responses")
ID_BYTES: Final = 24

_earlier: Final[TypeAdapter[list[Item]]] = TypeAdapter(list[InputItem])


def response_routes(services: Services) -> APIRouter:
    """The routes and their aliases."""
    router = APIRouter(tags=["responses"])

    async def create(request: Request) -> Response:
        body = await read_object(request, services.max_body_bytes)
        asked = await _asked(services, request, body)
        wish = _wish(services, request, body)
        with told_as(PLACES):
            conversation = await begin_conversation(services, request, asked.chat, wish)
        begun = _Begun(asked, conversation, _shelf(services, request), request)
        if asked.parsed.request.stream:
            return await held_stream(
                services, request, begun.conversation, _frames(begun), headers=begun.headers
            )
        async with conversation:
            return await unless_gone(request, _whole(begun))

    async def count(request: Request) -> dict[str, Any]:
        body = await read_object(request, services.max_body_bytes)
        asked = await _asked(services, request, body)
        with told_as(PLACES):
            num_tokens = await count_prompt(services, caller_of(request), asked.chat)
        return {"object": "response.input_tokens", "input_tokens": num_tokens}

    async def show(request: Request, response_id: str) -> dict[str, Any]:
        if request.query_params.get("stream", "").lower() in ("true", "1"):
            sentence = "A response that has been made is not streamed again: leave 'stream' out."
            raise RequestError(sentence, param="stream", reason="unsupported_parameter")
        return (await _shelf(services, request).find(response_id)).response

    async def drop(request: Request, response_id: str) -> dict[str, Any]:
        await _shelf(services, request).drop(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    async def cancel(request: Request, response_id: str) -> None:
        await _shelf(services, request).find(response_id)
        raise RequestError("Only responses made in the background can be cancelled.")

    async def list_input(request: Request, response_id: str) -> dict[str, Any]:
        asked = Paging.of(request.query_params)
        record = await _shelf(services, request).find(response_id)
        return asked.page([*record.earlier, *record.input])

    for base in BASES:
        for path, handler, headers in (
            (base, create, KEY_HEADERS),
            (f"{base}/input_tokens", count, []),
        ):
            router.add_api_route(
                path,
                handler,
                methods=["POST"],
                response_model=None,
                openapi_extra=body_schema(ResponseRequest, headers),
            )
        one = f"{base}/{{response_id}}"
        router.add_api_route(one, show, methods=["GET"])
        router.add_api_route(one, drop, methods=["DELETE"])
        router.add_api_route(f"{one}/cancel", cancel, methods=["POST"])
        router.add_api_route(f"{one}/input_items", list_input, methods=["GET"])
    return router


@dataclass(frozen=True)
class _Asked:
    """A valid request: the chat completion that answers it, and all that went before."""

    body: dict[str, Any]
    parsed: Parsed
    book: ToolBook
    ignored: tuple[str, ...]
    earlier: list[dict[str, Any]]
    chat: dict[str, Any]


@dataclass(frozen=True)
class _Begun:
    """A response on its way."""

    asked: _Asked
    conversation: Conversation
    shelf: Shelf
    request: Request

    @property
    def headers(self) -> dict[str, str]:
        return headers_of(self.request.headers, self.conversation.call.headers, self.asked.ignored)


async def _asked(services: Services, request: Request, body: dict[str, Any]) -> _Asked:
    parsed = parse_response(body)
    book, absent = ToolBook.of(parsed.request.tools, parsed.request.tool_choice)
    earlier: list[dict[str, Any]] = []
    if parsed.request.previous_response_id is not None:
        shelf, previous = _shelf(services, request), parsed.request.previous_response_id
        earlier = (await shelf.find(previous, param="previous_response_id")).items
    chat = chat_body(parsed, book, _earlier.validate_python(earlier))
    return _Asked(body, parsed, book, (*parsed.ignored, *absent), earlier, chat)


def _wish(services: Services, request: Request, body: dict[str, Any]) -> Wish:
    caller, revisions = caller_of(request), services.models.revisions
    return key_wish_of(request.headers, caller, revisions, "responses", body)


def _shelf(services: Services, request: Request) -> Shelf:
    return Shelf(services.responses, caller_of(request).tenant, services.response_seconds)


async def _whole(begun: _Begun) -> Response:
    *_, last = [event async for event in _events(begun)]
    return JSONResponse(last["response"], headers=begun.headers)


async def _frames(begun: _Begun) -> AsyncGenerator[bytes, None]:
    number = 0
    output = _output(begun)
    try:
        async with aclosing(_events(begun, output)) as events:
            async for event in events:
                yield event_frame(event | {"sequence_number": number})
                number += 1
    except Exception as error:  # the 200 is out: the client must hear of it inside the stream
        told = report(error, request_id_of(begun.request)).body["error"]
        output.end("incomplete")
        why = {"code": told["code"] or "server_error", "message": told["message"]}
        response = _frame(begun).at("failed", output.items, error=why)
        event = {"type": "response.failed", "response": response, "sequence_number": number}
        yield event_frame(event)


def _output(begun: _Begun) -> Output:
    call, asked = begun.conversation.call, begun.asked.parsed.request

    def logprobs(tokens: Sequence[Token]) -> list[dict[str, Any]]:
        return logprobs_object(tokens, call.model.text.vocabulary)["content"]

    return Output(
        begun.asked.book,
        new_id=ids_of(call.answer_id, ID_BYTES),
        logprobs=logprobs if asked.wants_logprobs else None,
        seals=WITH_REASONING in asked.include,
    )


def _frame(begun: _Begun) -> Frame:
    call, asked = begun.conversation.call, begun.asked
    response_id = "resp_" + call.answer_id.partition("-")[2]
    return Frame(
        response_id, call.created, asked.parsed.request, asked.body, asked.parsed.request.store
    )


async def _events(begun: _Begun, output: Output | None = None) -> AsyncGenerator[Event, None]:
    """All there is to tell; the last is the whole response."""
    frame, conversation = _frame(begun), begun.conversation
    output = output or _output(begun)
    for kind in ("response.created", "response.in_progress"):
        yield {"type": kind, "response": frame.at("in_progress", [])}
    async with aclosing(conversation.said()) as saying:
        async for _, said in saying:
            for event in output.feed(said):
                yield event
    status = status_of(conversation.choices[0].finish_reason)
    for event in output.end(status):
        yield event
    usage = usage_of(conversation.usage)
    response = frame.at(status, output.items, usage=usage, completed=int(time.time()))
    if frame.is_stored and not await begun.shelf.put(_record(begun, response)):
        response["store"] = False
    yield {"type": f"response.{status}", "response": response}


def _record(begun: _Begun, response: dict[str, Any]) -> Record:
    new_id = ids_of(f"input of {begun.conversation.call.answer_id}", ID_BYTES)
    ids = iter(lambda: new_id("msg_"), "")
    return Record(response, as_items(begun.asked.body["input"], ids), begun.asked.earlier)
