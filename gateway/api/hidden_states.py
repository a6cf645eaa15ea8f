"""POST /v1/hidden_states: what chosen blocks of the model make of a text."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import Field

from gateway.api.readings import (
    Asked,
    OneTextRequest,
    one_text,
    places,
    reading_routes,
    size_of,
)
from gateway.api.texts import parse
from gateway.api.written import Whole
from gateway.keys import Caller
from gateway.services import Services
from shared.wire.messages import Reading

PATHS: Final = ("/v1/hidden_states", "/hidden_states")


class HiddenStatesRequest(OneTextRequest):
    """Hidden states of one text, as safetensors: `hidden_states.N` for each block asked for, a row
    for each position, which are all by default."""

    blocks: (
        Annotated[
            list[Whole],
            Field(
                min_length=1,
                fail_fast=True,
                description="after how many blocks, as transformers counts: 0 is the embedding, "
                "the number of blocks, or -1, what comes out of the final norm; -1 by default",
            ),
        ]
        | None
    ) = None


def hidden_states_routes(services: Services) -> APIRouter:
    """The route and its alias."""
    return reading_routes(services, PATHS, HiddenStatesRequest, _asked)


async def _asked(services: Services, caller: Caller, body: Mapping[str, Any]) -> Asked:
    request, headers = parse(HiddenStatesRequest, body)
    model = services.model_for(caller, request.model, is_stream=False)
    blocks = places(request.blocks or [-1], model.spec.num_blocks + 1, "blocks")
    tokens = await one_text(model, request)
    positions = places(request.positions or range(len(tokens)), len(tokens), "positions")
    return Asked(
        model,
        tokens,
        Reading("states", positions, blocks),
        {block: f"hidden_states.{block}" for block in blocks},
        size_of(len(positions) * len(blocks), model.spec.hidden_size),
        headers | {"x-model-revision": model.spec.revision},
    )
