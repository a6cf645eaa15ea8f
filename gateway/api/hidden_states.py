"""POST /v1/hidden_states: what chosen blocks of the model make of a text."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import Field
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
            openapi_extra=body_schema(HiddenStatesRequest),
        )
    return router


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
