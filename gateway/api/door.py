"""Who may come in: every request but a few shows a key, and the routes learn whose it is."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admission import Admission
from gateway.key_ring import KeyRing
from gateway.keys import Caller, anybody

OPEN_PATHS: Final = frozenset(
    {"/health", "/ready", "/version", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
)
"""What probes, load balancers and people who have no key yet may see."""

METRICS_PATH: Final = "/metrics"

SECONDS: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?", re.ASCII)


class Door:
    """Raises RequestError 401 for a request without a key; others go on with their caller."""

    def __init__(
        self, app: ASGIApp, keys: KeyRing, admission: Admission, open_paths: Collection[str]
    ) -> None:
        self._app = app
        self._keys = keys
        self._admission = admission
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            is_open = scope["method"] == "OPTIONS" or scope["path"] in self._open_paths
            state = scope.setdefault("state", {})
            headers = Headers(scope=scope)
            caller = anybody("") if is_open else self._keys.caller(headers)
            state["caller"] = replace(caller, patience_seconds=patience_of(headers))
            send = self._telling_limits(caller, send)
        await self._app(scope, receive, send)

    def _telling_limits(self, caller: Caller, send: Send) -> Send:
        """As of when the answer begins, on those that a client would look at them in."""

        def told(status: int) -> bool:
            return status < 300 or status == 429

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start" and told(message["status"]):
                MutableHeaders(scope=message).update(self._admission.headers(caller))
            await send(message)

        return send_told


def patience_of(headers: Mapping[str, str]) -> float | None:
    """How long OpenAI's SDKs say that they wait: in seconds, openai-python's and openai-node's."""
    told = headers.get("x-stainless-read-timeout") or headers.get("x-stainless-timeout") or ""
    return float(told) if SECONDS.fullmatch(told) and float(told) > 0 else None


def caller_of(request: Request) -> Caller:
    """Who sent this request, as the door found out."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller
