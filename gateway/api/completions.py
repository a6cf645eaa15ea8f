"""POST /v1/completions: texts that go on where prompts end, whole or streamed."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api import sse
from gateway.api.body import read_object, unless_gone
from gateway.api.completing import Completing, accept_completion
from gateway.api.completion import Completion, Piece
from gateway.api.completion_request import CompletionRequest, parse_completion
from gateway.api.door import caller_of
from gateway.api.errors import report, request_id_of
from gateway.api.event_stream import held_stream
from gateway.api.legacy_logprobs import legacy_logprobs
from gateway.api.openapi import body_schema
from gateway.api.resume import KEY_HEADERS, key_wish_of
from gateway.services import Services
from shared.errors import RequestError

PATHS: Final = ("/v1/completions", "/completions")
NOT_KEPT: Final = ("x-resumable", "last-event-id")


def completion_routes(services: Services) -> APIRouter:
    """The route and its alias."""
    router = APIRouter(tags=["completions"])

    async def create(request: Request) -> Response:
        _check_headers(request)
        body = await read_object(request, services.max_body_bytes)
        parsed, caller = parse_completion(body), caller_of(request)
        revisions = services.models.revisions
        wish = key_wish_of(request.headers, caller, revisions, "completions", body)
        asked = await accept_completion(services, caller, parsed, wish)
        writer = Writer(asked, _headers(asked))
        completion = Completion(services, asked)
        if asked.request.stream:
            frames = writer.frames(completion, request_id_of(request))
            return await held_stream(services, request, completion, frames, headers=writer.headers)
        async with completion:
            return await unless_gone(request, writer.whole(completion))

    for path in PATHS:
        router.add_api_route(
            path,
            create,
            methods=["POST"],
            response_model=None,
            openapi_extra=body_schema(CompletionRequest, KEY_HEADERS),
        )
    return router


class Writer:
    """What a completion says, as OpenAI writes it."""

    def __init__(self, asked: Completing, headers: dict[str, str]) -> None:
        self.headers = headers
        self._asked = asked
        self._head = {
            "id": asked.answer_id,
            "object": "text_completion",
            "created": asked.created,
            "model": asked.request.model,
            "system_fingerprint": asked.model.fingerprint,
        }

    async def whole(self, completion: Completion) -> Response:
        """The answer, once all of it is there."""
        said: dict[int, list[Piece]] = {}
        async with aclosing(completion.pieces()) as pieces:
            async for number, piece in pieces:
                said.setdefault(number, []).append(piece)
        choices = [
            self._choice(index, said[number]) for index, number in enumerate(completion.best())
        ]
        body = self._head | {"choices": choices, "usage": completion.usage}
        return JSONResponse(body, headers=self.headers)

    async def frames(self, completion: Completion, request_id: str) -> AsyncGenerator[bytes, None]:
        """The same as it comes; a choice's last frame tells why it ended."""
        try:
            async with aclosing(completion.pieces()) as pieces:
                async for number, piece in pieces:
                    yield self._frame(self._choice(number, [piece]))
        except Exception as error:  # the 200 is out: the client must hear of it inside the stream
            yield sse.failure(report(error, request_id).body)
            return
        if self._asked.request.wants_usage:
            yield _data(self._head | {"choices": [], "usage": completion.usage})
        yield sse.DONE

    def _choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        logprobs = None
        if self._asked.request.logprobs is not None and (text or len(pieces) > 1):
            scored = (one for piece in pieces for one in piece.scored)
            logprobs = legacy_logprobs(scored, self._asked.model.text.vocabulary)
        reason = pieces[-1].finish_reason
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _frame(self, choice: dict[str, Any]) -> bytes:
        usage = {"usage": None} if self._asked.request.wants_usage else {}
        return _data(self._head | {"choices": [choice]} | usage)


def _data(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode()


def _check_headers(request: Request) -> None:
    for name in NOT_KEPT:
        if request.headers.get(name, "").strip().lower() not in ("", "0", "false"):
            sentence = f"'{name}' is not supported for completions; chat completions have it."
            raise RequestError(sentence, param=name, reason="unsupported_parameter")


def _headers(asked: Completing) -> dict[str, str]:
    headers = {"x-model-revision": asked.model.spec.revision}
    if asked.is_replayed:
        headers["idempotent-replayed"] = "true"
    return headers | ({"x-ignored-params": ", ".join(asked.ignored)} if asked.ignored else {})
