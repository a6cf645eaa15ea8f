"""GET /metrics: what Prometheus reads."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import generate_latest
from starlette.responses import PlainTextResponse, Response

from gateway.services import Services


def metrics_routes(services: Services) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["status"])

    async def metrics() -> Response:
        text = generate_latest(services.metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    router.add_api_route("/metrics", metrics, methods=["GET"], response_class=PlainTextResponse)
    return router
