"""The gateway's HTTP application, put together."""

from typing import Final

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from gateway.api.chat import chat_routes
from gateway.api.completions import completion_routes
from gateway.api.door import METRICS_PATH, OPEN_PATHS, Door
from gateway.api.embeddings import embeddings_routes
from gateway.api.errors import add_error_handlers
from gateway.api.hidden_states import hidden_states_routes
from gateway.api.logits import logits_routes
from gateway.api.messages.routes import message_routes
from gateway.api.metrics import metrics_routes
from gateway.api.middleware import CountRequests, LastResort, OneForm, RequestId
from gateway.api.models import model_routes
from gateway.api.openapi import ERRORS, describe_api
from gateway.api.responses.routes import response_routes
from gateway.api.short_way import App
from gateway.api.status import status_routes
from gateway.api.tokenize import tokenize_routes
from gateway.services import Services

ROUTES: Final = (
    chat_routes,
    completion_routes,
    response_routes,
    message_routes,
    embeddings_routes,
    hidden_states_routes,
    logits_routes,
    model_routes,
    tokenize_routes,
    status_routes,
    metrics_routes,
)

EXPOSED_HEADERS: Final = (
    "x-request-id",
    "request-id",
    "openai-processing-ms",
    "retry-after",
    *(
        f"x-ratelimit-{what}-{of}"
        for what in ("limit", "remaining", "reset")
        for of in ("requests", "tokens")
    ),
    "x-should-retry",
    "x-ignored-params",
    "x-model-revision",
    "idempotent-replayed",
)


def build_app(services: Services) -> FastAPI:
    """The application around `services`."""
    app = App(
        title="Bucket Brigade",
        responses=ERRORS,
        redirect_slashes=False,
        middleware=[
            Middleware(RequestId),
            _cors(services.allowed_origins),
            Middleware(LastResort),
            Middleware(OneForm),
            Middleware(CountRequests, metrics=services.metrics),
            Middleware(
                Door,
                keys=services.keys,
                admission=services.admission,
                open_paths=_open_paths(services),
            ),
        ],
    )
    add_error_handlers(app)
    describe_api(app)
    for routes in ROUTES:
        app.include_router(routes(services))
    return app


def _open_paths(services: Services) -> frozenset[str]:
    return OPEN_PATHS.union({METRICS_PATH} if services.has_open_metrics else ())


def _cors(origins: tuple[str, ...]) -> Middleware:
    """Around everything that answers, so that a browser may read errors too."""
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE", "OPTIONS"),
        allow_headers=("*",),
        expose_headers=EXPOSED_HEADERS,
        max_age=600,
    )
