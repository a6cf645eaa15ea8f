"""POST /v1/logits: the raw logits of the tokens that could follow a text, or any part of it."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.door import caller_of
from gateway.api.openapi import body_schema
from gateway.api.readings import (
    DOCUMENTED,
    Asked,
    OneTextRequest,
    answer,
    body_of,
    one_text,
    places,
    size_of,
)
from gateway.api.texts import parse
from gateway.keys import Caller
from gateway.services import Services
from shared.wire.messages import Reading

PATHS: Final = ("/v1/logits", "/logits")


class LogitsRequest(OneTextRequest):
    """Logits of one text, as safetensors: `logits`, a row for each position asked for, which is
    the last by default."""


def logits_routes(services: Services) -> APIRouter:
    """The route and its alias."""
    router = APIRouter(tags=["states"])

    async def create(request: Request) -> Response:
        body = await body_of(services, request)
        return await answer(services, request, await _asked(services, caller_of(request), body))

    for path in PATHS:
        router.add_api_route(
            path,
            create,
            methods=["POST"],
            response_model=None,
            response_class=Response,
            responses=DOCUMENTED,
            openapi_extra=body_schema(LogitsRequest),
        )
    return router


async def _asked(services: Services, caller: Caller, body: Mapping[str, Any]) -> Asked:
    request, headers = parse(LogitsRequest, body)
    model = services.model_for(caller, request.model, is_stream=False)
    tokens = await one_text(model, request)
    positions = places(request.positions or [-1], len(tokens), "positions")
    return Asked(
        model,
        tokens,
        Reading("logits", positions),
        {model.spec.num_blocks: "logits"},
        size_of(len(positions), model.spec.vocab_size),
        headers | {"x-model-revision": model.spec.revision},
    )
