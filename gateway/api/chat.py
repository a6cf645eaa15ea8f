"""POST /v1/chat/completions: from a request to an answer, whole or streamed."""

import asyncio
import hashlib
import secrets
import string
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api import sse
from gateway.api.answer import Answer, Piece
from gateway.api.body import read_object, unless_gone
from gateway.api.errors import report, request_id_of
from gateway.api.event_stream import EventStream
from gateway.api.logprobs import logprobs_object
from gateway.api.models import check_model
from gateway.api.sampling import check_ids, sampling_of, stop_ids_of
from gateway.api.schema import ChatRequest, Parsed, parse_chat
from gateway.services import Services
from gateway.token_stream import TokenStream
from shared.errors import GrammarError, ModelError, RequestError
from shared.swarm import ModelSpec
from shared.wire.messages import Grammar

PATHS: Final = ("/v1/chat/completions", "/chat/completions")
ALPHANUMERIC: Final = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Call:
    """A valid request on its way."""

    request: ChatRequest
    grammar: Grammar | None
    answer_id: str
    created: int
    prompt: tuple[int, ...]
    max_tokens: int
    headers: dict[str, str]


def chat_routes(services: Services) -> APIRouter:
    """The route and its alias."""
    router = APIRouter(tags=["chat"])

    async def create(request: Request) -> Response:
        call = await _begin(services, request)
        answer, tokens = _generate(services, call)
        if call.request.stream:
            return await _streamed(services, call, request, answer, tokens)
        async with tokens:
            return await unless_gone(request, _whole(services, call, answer, tokens))

    for path in PATHS:
        router.add_api_route(
            path, create, methods=["POST"], response_model=None, openapi_extra=_body_schema()
        )
    return router


def _body_schema() -> dict[str, Any]:
    """What the API's own documentation says of the body, which is parsed by hand."""
    schema = ChatRequest.model_json_schema()
    inlined = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


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


def prompt_budget(spec: ModelSpec, num_prompt_tokens: int, asked: int | None) -> int:
    """How many tokens may follow the prompt.

    Raises RequestError when none fits. LiteLLM and agents know the sentence by its beginning.
    """
    room = spec.max_positions - num_prompt_tokens
    if room < 1:
        raise RequestError(
            f"This model's maximum context length is {spec.max_positions} tokens. However, your "
            f"messages resulted in {num_prompt_tokens} tokens. Please reduce the length of the "
            "messages.",
            param="messages",
            reason="context_length_exceeded",
        )
    return min(asked or room, room)


def fingerprint(spec: ModelSpec) -> str:
    """What a client may compare to see whether the same seed can give the same text."""
    return "fp_" + hashlib.sha256(spec.revision.encode()).hexdigest()[:10]


async def pieces(tokens: TokenStream, answer: Answer) -> AsyncGenerator[Piece, None]:
    """The pieces of the answer as they come, none empty; both kinds of answer are made of them."""
    while answer.finish_reason is None:
        fresh = await tokens.take()
        if not fresh:
            answer.ended()
        if (piece := answer.feed(fresh)).text:
            yield piece


async def _begin(services: Services, request: Request) -> Call:
    """Everything that can be wrong with a request is found here, before any work."""
    created = int(time.time())
    parsed = parse_chat(await read_object(request, services.max_body_bytes))
    check_model(services.spec, parsed.request.model)
    messages = [message.for_template() for message in parsed.request.messages]
    check_ids(parsed.request, services.spec.vocab_size)
    prompt = await asyncio.to_thread(services.text.render, messages)
    max_tokens = prompt_budget(services.spec, len(prompt), parsed.request.budget)
    grammar = await _checked(services, parsed)
    headers = {"x-model-revision": services.spec.revision}
    if parsed.ignored:
        headers["x-ignored-params"] = ", ".join(parsed.ignored)
    answer_id = "chatcmpl-" + "".join(secrets.choice(ALPHANUMERIC) for _ in range(29))
    return Call(parsed.request, grammar, answer_id, created, prompt, max_tokens, headers)


async def _checked(services: Services, parsed: Parsed) -> Grammar | None:
    """The grammar of the answer. Raises RequestError when it, or logprobs, cannot be had."""
    param = parsed.form.param if parsed.form else "logprobs"
    try:
        if parsed.request.logprobs:
            await services.text.vocabulary.load()
        if parsed.form:
            return await services.text.vocabulary.checked(parsed.form.grammar)
    except GrammarError as error:
        sentence = f"Invalid value for '{param}': {error}"
        raise RequestError(sentence, param=param, reason="invalid_value") from error
    except ModelError as error:
        sentence = f"'{param}' cannot be used with this model: it has {error}"
        raise RequestError(sentence, param=param, reason="unsupported_parameter") from error
    return None


def _generate(services: Services, call: Call) -> tuple[Answer, TokenStream]:
    request = call.request
    stop_ids = stop_ids_of(request, services.text.stop_ids)
    seed = secrets.randbits(63) if request.seed is None else request.seed
    source = services.generator.generate(
        call.prompt,
        sampling=sampling_of(request, call.grammar, seed=seed, stop_ids=stop_ids),
        max_tokens=call.max_tokens,
        stop_ids=stop_ids,
    )
    answer = Answer(
        services.text.decoder(),
        stops=tuple(request.stop),
        stop_ids=stop_ids,
        max_tokens=call.max_tokens,
        num_prompt_tokens=len(call.prompt),
    )
    tokens = TokenStream(source, services.admission, stop_ids=stop_ids, max_tokens=call.max_tokens)
    return answer, tokens


async def _whole(services: Services, call: Call, answer: Answer, tokens: TokenStream) -> Response:
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
        "system_fingerprint": fingerprint(services.spec),
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": _logprobs(services, call, *said),
                "finish_reason": answer.finish_reason,
            }
        ],
        "usage": answer.usage,
    }
    return JSONResponse(body, headers=call.headers)


def _logprobs(services: Services, call: Call, *said: Piece) -> dict[str, Any] | None:
    """The `logprobs` of what was said, where they were asked for."""
    if not call.request.logprobs:
        return None
    tokens = (token for piece in said for token in piece.tokens)
    return logprobs_object(tokens, services.text.vocabulary)


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
        fingerprint=fingerprint(services.spec),
        with_usage=call.request.wants_usage,
    )
    told = partial(_logprobs, services, call)
    return EventStream(
        _frames(chunks, answer, tokens, told, request_id_of(request)),
        tokens,
        headers=call.headers,
        keep_alive_seconds=services.keep_alive_seconds,
        grace_seconds=services.shutdown_grace_seconds,
    )


async def _frames(
    chunks: sse.Chunks,
    answer: Answer,
    tokens: TokenStream,
    logprobs: Callable[[Piece], dict[str, Any] | None],
    request_id: str,
) -> AsyncGenerator[bytes, None]:
    yield chunks.role()
    try:
        async for piece in pieces(tokens, answer):
            yield chunks.text(piece.text, logprobs(piece))
    except Exception as error:  # the 200 is out: the client must hear of it inside the stream
        yield sse.failure(report(error, request_id).body)
        return
    assert answer.finish_reason is not None
    yield chunks.end(answer.finish_reason, answer.usage)
