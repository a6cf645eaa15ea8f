"""GET /v1/models: the one model this swarm serves."""

from typing import Any

from fastapi import APIRouter

from gateway.services import Services
from shared.errors import RequestError
from shared.swarm import ModelSpec


def check_model(spec: ModelSpec, name: str) -> None:
    """Raises RequestError 404 unless the swarm serves the model `name`."""
    if name != spec.name:
        raise RequestError(
            f"The model `{name[:256]}` does not exist or you do not have access to it.",
            param="model",
            reason="model_not_found",
            status=404,
        )


def model_routes(services: Services) -> APIRouter:
    """The list, the one, and their aliases. A model without workers stays listed."""
    router = APIRouter(tags=["models"])

    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(services)]}

    async def show_model(name: str) -> dict[str, Any]:
        check_model(services.spec, name)
        return _model(services)

    for path in ("/v1/models", "/models"):
        router.add_api_route(path, list_models, methods=["GET"])
        router.add_api_route(path + "/{name:path}", show_model, methods=["GET"])
    return router


def _model(services: Services) -> dict[str, Any]:
    return {
        "id": services.spec.name,
        "object": "model",
        "created": services.created,
        "owned_by": "bucket-brigade",
        "max_model_len": services.spec.max_positions,
        "x_revision": services.spec.revision,
        "x_workers_online": len(services.snapshot()["workers"]),
    }
