"""GET /v1/models: what may be asked for, aliases among it."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from gateway.api.door import caller_of
from gateway.served import ServedModel
from gateway.services import Services


def model_routes(services: Services) -> APIRouter:
    """The list, the one, and their aliases. A model without workers stays listed."""
    router = APIRouter(tags=["models"])

    async def list_models(request: Request) -> dict[str, Any]:
        names = services.models.names_for(caller_of(request))
        listed = [_model(name, model) for name, model in names.items()]
        return {"object": "list", "data": listed}

    async def show_model(request: Request, name: str) -> dict[str, Any]:
        return _model(name, services.models.find_for(caller_of(request), name))

    for path in ("/v1/models", "/models"):
        router.add_api_route(path, list_models, methods=["GET"])
        router.add_api_route(path + "/{name:path}", show_model, methods=["GET"])
    return router


def _model(name: str, model: ServedModel) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "bucket-brigade",
        "max_model_len": model.spec.max_positions,
        "x_revision": model.spec.revision,
        "x_workers_online": len(model.snapshot()["workers"]),
    }
