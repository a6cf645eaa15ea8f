"""POST /v1/logits: the raw logits of the tokens that could follow a text, or any part of it."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter

from gateway.api.readings import (
    Asked,
    OneTextRequest,
    one_text,
    places,
    reading_routes,
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
    return reading_routes(services, PATHS, LogitsRequest, _asked)


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
