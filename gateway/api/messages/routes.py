"""/v1/messages, Anthropic's API: from a request to a message, whole or streamed."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gateway.api.body import read_object, unless_gone
from gateway.api.call import count_prompt
from gateway.api.conversation import Conversation, begin_conversation
from gateway.api.door import caller_of
from gateway.api.errors import report, request_id_of
from gateway.api.event_stream import held_stream
from gateway.api.foreign import event_frame, headers_of, ids_of, told_as
from gateway.api.messages.chat_body import PLACES, chat_body
from gateway.api.messages.errors import ANTHROPIC_PATH, as_anthropic
from gateway.api.messages.events import Message
from gateway.api.messages.schema import MessagesRequest, parse_messages
from gateway.api.openapi import body_schema
from gateway.api.resume import KEY_HEADERS, Wish, key_wish_of
from gateway.services import Services

ID_BYTES: Final = 12


class AnthropicRoute(APIRoute):
    """Answers errors in Anthropic's envelope, and names requests where its SDKs look for it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with every error translated."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            request_id = request_id_of(request)
            try:
                response = await handle(request)
            except ClientDisconnect:
                raise
            except Exception as error:
                response = as_anthropic(report(error, request_id), request_id).response()
            response.headers["request-id"] = request_id
            return response

        return answer


def message_routes(services: Services) -> APIRouter:
    """The routes; clients of this API all write `/v1`."""
    router = APIRouter(tags=["messages"], route_class=AnthropicRoute)

    async def create(request: Request) -> Response:
        body = await read_object(request, services.max_body_bytes)
        parsed = parse_messages(body)
        chat, wish = chat_body(parsed), _wish(services, request, body)
        with told_as(PLACES):
            conversation = await begin_conversation(services, request, chat, wish)
        headers = headers_of(request.headers, conversation.call.headers, parsed.ignored)
        begun = _Begun(conversation, request, headers)
        if parsed.request.stream:
            return await held_stream(
                services, request, begun.conversation, _frames(begun), headers=begun.headers
            )
        async with conversation:
            return await unless_gone(request, _whole(begun))

    async def count(request: Request) -> dict[str, Any]:
        body = await read_object(request, services.max_body_bytes)
        parsed = parse_messages({"max_tokens": 1} | body)
        with told_as(PLACES):
            num_tokens = await count_prompt(services, caller_of(request), chat_body(parsed))
        return {"input_tokens": num_tokens}

    for path, handler, headers in (
        (ANTHROPIC_PATH, create, KEY_HEADERS),
        (f"{ANTHROPIC_PATH}/count_tokens", count, []),
    ):
        router.add_api_route(
            path,
            handler,
            methods=["POST"],
            response_model=None,
            openapi_extra=body_schema(MessagesRequest, headers),
        )
    return router


@dataclass(frozen=True)
class _Begun:
    """A message on its way."""

    conversation: Conversation
    request: Request
    headers: dict[str, str]

    def message(self) -> Message:
        call = self.conversation.call
        return Message(ids_of(call.answer_id, ID_BYTES)("msg_"), call.request.model)

    @property
    def end(self) -> tuple[str, dict[str, Any], str | None]:
        """How it ended: why, at what cost, by which stop string."""
        choice = self.conversation.choices[0]
        assert choice.finish_reason is not None
        return choice.finish_reason, self.conversation.usage, choice.answer.stop_string


def _wish(services: Services, request: Request, body: dict[str, Any]) -> Wish:
    caller, revisions = caller_of(request), services.models.revisions
    return key_wish_of(request.headers, caller, revisions, "messages", body)


async def _whole(begun: _Begun) -> Response:
    message = begun.message()
    async with aclosing(begun.conversation.said()) as saying:
        async for _, said in saying:
            message.feed(said)
    return JSONResponse(message.whole(*begun.end), headers=begun.headers)


async def _frames(begun: _Begun) -> AsyncGenerator[bytes, None]:
    message = begun.message()
    yield event_frame(message.begin(begun.conversation.usage))
    try:
        async with aclosing(begun.conversation.said()) as saying:
            async for _, said in saying:
                for event in message.feed(said):
                    yield event_frame(event)
    except Exception as error:  # the 200 is out: the client must hear of it inside the stream
        request_id = request_id_of(begun.request)
        yield event_frame(as_anthropic(report(error, request_id), request_id).body)
        return
    for event in message.end(*begun.end):
        yield event_frame(event)
