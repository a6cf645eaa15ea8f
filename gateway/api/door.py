"""Who may come in: every request but a few shows a key, and the routes learn whose it is."""

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.key_ring import KeyRing
from gateway.keys import Caller, anybody

OPEN_PATHS: Final = frozenset(
    {"/health", "/ready", "/version", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
)
"""What probes, load balancers and people who have no key yet may see."""

METRICS_PATH: Final = "/metrics"


class Door:
    """Raises RequestError 401 for a request without a key; others go on with their caller."""

    def __init__(self, app: ASGIApp, keys: KeyRing, open_paths: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            is_open = scope["method"] == "OPTIONS" or scope["path"] in self._open_paths
            state = scope.setdefault("state", {})
            state["caller"] = anybody("") if is_open else self._keys.caller(Headers(scope=scope))
        await self._app(scope, receive, send)


def caller_of(request: Request) -> Caller:
    """Who sent this request, as the door found out."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller
