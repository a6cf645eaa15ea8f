"""POST /v1/chat/completions: from a request to an answer, whole or streamed."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any, Final, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api import sse
from gateway.api.answer import Answer, Piece
from gateway.api.body import unless_gone
from gateway.api.call import Call, accept
from gateway.api.door import caller_of
from gateway.api.errors import report, request_id_of
from gateway.api.event_stream import EventStream
from gateway.api.logprobs import logprobs_object, prompt_logprobs_list
from gateway.api.resume import HEADERS, read_body, wish_of
from gateway.api.schema import ChatRequest
from gateway.generator import Token
from gateway.resume_record import Seen
from gateway.services import Services
from gateway.token_stream import TokenStream

PATHS: Final = ("/v1/chat/completions", "/chat/completions")


def chat_routes(services: Services) -> APIRouter:
    """The route and its alias."""
    router = APIRouter(tags=["chat"])

    async def create(request: Request) -> Response:
        caller = caller_of(request)
        wish = wish_of(request.headers, caller, services.models.revisions)
        body = await read_body(request, wish, services.max_body_bytes)
        call = await accept(services, caller, wish, body)
        answer, tokens = _generate(services, call)
        if call.request.stream:
            return await _streamed(services, call, request, answer, tokens)
        async with tokens:
            return await unless_gone(request, _whole(call, answer, tokens))

    for path in PATHS:
        router.add_api_route(
            path, create, methods=["POST"], response_model=None, openapi_extra=_body_schema()
        )
    return router


def _body_schema() -> dict[str, Any]:
    """What the API's own documentation says of the body, which is parsed by hand."""
    schema = ChatRequest.model_json_schema()
    inlined = _inlined(schema, schema.pop("$defs", {}))
    body = {"required": True, "content": {"application/json": {"schema": inlined}}}
    return {"requestBody": body, "parameters": HEADERS}


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema with its references written out, as it has no cycles."""
    match node:
        case {"$ref": str(reference)}:
            return _inlined(definitions[reference.removeprefix("#/$defs/")], definitions)
        case dict():
            mapping = cast("dict[str, Any]", node)
            return {key: _inlined(value, definitions) for key, value in mapping.items()}
        case list():
            return [_inlined(item, definitions) for item in cast("list[Any]", node)]
        case _:
            return node


async def pieces(
    tokens: TokenStream, answer: Answer, *, num_seen: int = 0
) -> AsyncGenerator[Piece, None]:
    """The pieces of the answer as they come, none empty; both kinds of answer are made of them.

    What the first `num_seen` tokens made is left out: the state behind them is all that counts.
    """
    while answer.finish_reason is None:
        fresh = await tokens.take()
        if not fresh:
            answer.ended()
        num_silent = max(0, num_seen - answer.num_tokens)
        answer.feed(fresh[:num_silent])
        if (piece := answer.feed(fresh[num_silent:])).text:
            yield piece


def _generate(services: Services, call: Call) -> tuple[Answer, TokenStream]:
    timed = services.metrics.timed(_source(services, call), time.perf_counter())
    tokens = TokenStream(
        timed, services.admission, stop_ids=call.stop_ids, max_tokens=call.max_tokens
    )
    if call.kept is not None:
        call.kept.interrupt = tokens.interrupt
    return _answer(call), tokens


def _answer(call: Call) -> Answer:
    return Answer(
        call.model.text.decoder(),
        stops=tuple(call.request.stop),
        stop_ids=call.stop_ids,
        max_tokens=call.max_tokens,
        num_prompt_tokens=len(call.prompt),
    )


def _source(services: Services, call: Call) -> AsyncGenerator[Token, None]:
    if call.kept is not None:
        ends = partial(_is_complete, call)
        is_patient = not call.request.stream
        return call.kept.tokens(call.model.generator, ends=ends, is_patient=is_patient)
    return call.model.generator.generate(
        call.prompt, sampling=call.sampling, max_tokens=call.max_tokens, stop_ids=call.stop_ids
    )


def _is_complete(call: Call, tokens: Sequence[Token]) -> bool:
    answer = _answer(call)
    answer.feed(tokens)
    return answer.finish_reason is not None


async def _whole(call: Call, answer: Answer, tokens: TokenStream) -> Response:
    said = [piece async for piece in pieces(tokens, answer)]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(piece.text for piece in said),
        "refusal": None,
        "annotations": [],
    }
    body: dict[str, Any] = {
        "id": call.answer_id,
        "object": "chat.completion",
        "created": call.created,
        "model": call.request.model,
        "system_fingerprint": call.model.fingerprint,
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": _logprobs(call, *said),
                "finish_reason": answer.finish_reason,
            }
        ],
        "usage": answer.usage,
    }
    if call.request.prompt_logprobs is not None:
        body["prompt_logprobs"] = await asyncio.to_thread(
            prompt_logprobs_list, call.prompt, answer.prompt_logprobs, call.model.text.vocabulary
        )
    return JSONResponse(body, headers=call.headers)


def _logprobs(call: Call, *said: Piece) -> dict[str, Any] | None:
    """The `logprobs` of what was said, where they were asked for."""
    if not call.request.logprobs:
        return None
    tokens = (token for piece in said for token in piece.tokens)
    return logprobs_object(tokens, call.model.text.vocabulary)


async def _streamed(
    services: Services, call: Call, request: Request, answer: Answer, tokens: TokenStream
) -> Response:
    """Hold the 200 until there is a token, so that failures before it keep their status."""
    try:
        await unless_gone(request, tokens.begin(services.hold_seconds))
    except BaseException:
        await tokens.close()
        raise
    chunks = sse.Chunks(
        answer_id=call.answer_id,
        created=call.created,
        model=call.request.model,
        fingerprint=call.model.fingerprint,
        with_usage=call.request.wants_usage,
        stream=call.stream,
    )
    told = partial(_logprobs, call)
    return EventStream(
        _frames(chunks, answer, tokens, told, request_id_of(request), call.seen),
        tokens,
        headers=call.headers,
        has_ids=bool(call.stream),
        keep_alive_seconds=services.keep_alive_seconds,
        grace_seconds=services.shutdown_grace_seconds,
    )


async def _frames(
    chunks: sse.Chunks,
    answer: Answer,
    tokens: TokenStream,
    logprobs: Callable[[Piece], dict[str, Any] | None],
    request_id: str,
    seen: Seen | None,
) -> AsyncGenerator[bytes, None]:
    if seen is None:
        yield chunks.role()
    try:
        async for piece in pieces(tokens, answer, num_seen=_num_seen(seen)):
            yield chunks.text(piece.text, logprobs(piece), num_tokens=answer.num_tokens)
    except Exception as error:  # the 200 is out: the client must hear of it inside the stream
        yield sse.failure(report(error, request_id).body)
        return
    assert answer.finish_reason is not None
    yield chunks.end(answer.finish_reason, answer.usage, seen=seen)


def _num_seen(seen: Seen | None) -> int:
    """How many tokens' text the client had; all, if it had an event behind them."""
    return (seen or 0) if seen is None or isinstance(seen, int) else sys.maxsize
