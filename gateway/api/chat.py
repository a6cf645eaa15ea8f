"""POST /v1/chat/completions: from a request to an answer, whole or streamed."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api import sse
from gateway.api.asked import StreamOptions
from gateway.api.body import unless_gone
from gateway.api.call import Call, accept
from gateway.api.conversation import Choice, Conversation
from gateway.api.door import caller_of
from gateway.api.errors import report, request_id_of
from gateway.api.event_stream import held_stream
from gateway.api.logprobs import prompt_logprobs_list
from gateway.api.message import delta_of, logprobs_of, message_of
from gateway.api.openapi import body_schema
from gateway.api.resume import HEADERS, read_body, wish_of
from gateway.api.said import Said, Text
from gateway.api.schema import ChatRequest
from gateway.services import Services

PATHS: Final = ("/v1/chat/completions", "/chat/completions")


def chat_routes(services: Services) -> APIRouter:
    """The route and its alias."""
    router = APIRouter(tags=["chat"])

    async def create(request: Request) -> Response:
        caller = caller_of(request)
        wish = wish_of(request.headers, caller, services.models.revisions)
        body = await read_body(request, wish, services.max_body_bytes)
        call = await accept(services, caller, wish, body)
        conversation = Conversation(services, call)
        if call.request.stream:
            return await _streamed(services, request, conversation)
        async with conversation:
            return await unless_gone(request, _whole(conversation))

    for path in PATHS:
        router.add_api_route(
            path,
            create,
            methods=["POST"],
            response_model=None,
            openapi_extra=body_schema(ChatRequest, HEADERS),
        )
    return router


async def _whole(conversation: Conversation) -> Response:
    call, said = conversation.call, [list[Said]() for _ in conversation.choices]
    async with aclosing(conversation.said()) as saying:
        async for index, one in saying:
            said[index].append(one)
    body: dict[str, Any] = {
        "id": call.answer_id,
        "object": "chat.completion",
        "created": call.created,
        "model": call.request.model,
        "system_fingerprint": call.model.fingerprint,
        "service_tier": "default",
        "choices": [_choice(call, choice, said[choice.index]) for choice in conversation.choices],
        "usage": conversation.usage,
    }
    if call.request.prompt_logprobs is not None:
        told = conversation.choices[0].answer.prompt_logprobs
        body["prompt_logprobs"] = await asyncio.to_thread(
            prompt_logprobs_list, call.prompt, told, call.model.text.vocabulary
        )
    if call.request.return_token_ids:
        body["prompt_token_ids"] = call.prompt
    return JSONResponse(body, headers=call.headers)


def _choice(call: Call, choice: Choice, said: Sequence[Said]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "index": choice.index,
        "message": message_of(said),
        "logprobs": _logprobs(call, *said),
        "finish_reason": choice.finish_reason,
    }
    if call.request.return_token_ids:
        told["token_ids"] = choice.fresh_ids()
    return told


def _logprobs(call: Call, *said: Said) -> dict[str, Any] | None:
    """The `logprobs` of what was said, where they were asked for."""
    if not call.request.logprobs:
        return None
    return logprobs_of(said, call.model.text.vocabulary)


async def _streamed(services: Services, request: Request, conversation: Conversation) -> Response:
    call = conversation.call
    frames = _frames(conversation, request_id_of(request))
    return await held_stream(
        services, request, conversation, frames, headers=call.headers, has_ids=bool(call.stream)
    )


async def _frames(conversation: Conversation, request_id: str) -> AsyncGenerator[bytes, None]:
    call, choices = conversation.call, conversation.choices
    chunks, wants = _chunks(call), call.request.stream_options or StreamOptions()
    has_ids, has_logprobs = call.request.return_token_ids, call.request.logprobs
    is_bare = not (has_ids or has_logprobs or wants.continuous_usage_stats)
    if call.seen is None:
        more = {"prompt_token_ids": call.prompt} if has_ids else {}
        for choice in choices:
            yield chunks.role(choice.index, **more)
    try:
        async with aclosing(conversation.said()) as saying:
            async for index, said in saying:
                if is_bare and isinstance(said, Text):
                    yield chunks.text(index, said.text)
                    continue
                yield chunks.said(
                    index,
                    delta_of(said),
                    _logprobs(call, said) if has_logprobs and isinstance(said, Text) else None,
                    token_ids=choices[index].fresh_ids() if has_ids else None,
                    usage=conversation.usage if wants.continuous_usage_stats else None,
                )
    except Exception as error:  # the 200 is out: the client must hear of it inside the stream
        yield sse.failure(report(error, request_id).body)
        return
    yield chunks.end(
        [choice.finish_reason for choice in choices],
        conversation.usage,
        seen=call.seen,
        token_ids=[choice.fresh_ids() for choice in choices] if has_ids else (),
    )


def _chunks(call: Call) -> sse.Chunks:
    wants = call.request.stream_options or StreamOptions()
    return sse.Chunks(
        answer_id=call.answer_id,
        created=call.created,
        model=call.request.model,
        fingerprint=call.model.fingerprint,
        with_usage=call.request.wants_usage,
        stream=call.stream,
        num_said=call.num_seen,
        obfuscates=bool(wants.include_obfuscation),
    )
