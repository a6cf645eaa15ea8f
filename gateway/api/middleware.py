"""What every request passes through: its id, its path in one form, its last safety net.

Plain ASGI, because Starlette's BaseHTTPMiddleware puts a queue between a stream and its client.
"""

import re
import secrets
import time

import structlog
from sse_starlette.sse import SendTimeoutError
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.errors import report, rule_of
from gateway.api.messages.errors import ANTHROPIC_PATH, as_anthropic
from gateway.keys import Caller
from gateway.metrics import GatewayMetrics
from shared.errors import BrigadeError

log = structlog.get_logger()

CLIENT_GONE = 499
"""nginx's status for a client that hung up before its answer."""


class RequestId:
    """Gives each request an id, in its logs and in its answer, with the time to its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = time.perf_counter()
        request_id = "req_" + secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - began)))
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            await self._app(scope, receive, send_marked)


class OneForm:
    """`/v1//models/` is `/v1/models`, for clients that join base URLs carelessly; HEAD is GET.

    The server goes by its own copy of the method and leaves out the body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            path = re.sub("/{2,}", "/", scope["path"])
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "path": path.rstrip("/") or "/", "method": method}
        await self._app(scope, receive, send)


class CountRequests:
    """Counts what was answered. The innermost, as the route is known only where it was found."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._requests = metrics.requests
        self._key_requests = metrics.key_requests
        self._cancelled = metrics.cancelled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, is_gone, is_complete = 0, False, False

        async def send_noted(message: Message) -> None:
            nonlocal status, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")

        async def receive_noted() -> Message:
            nonlocal is_gone
            message = await receive()
            is_gone = is_gone or (message["type"] == "http.disconnect" and not is_complete)
            return message

        try:
            await self._app(scope, receive_noted, send_noted)
        except (ClientDisconnect, SendTimeoutError):
            status, is_gone = status or CLIENT_GONE, True
            raise
        except BrigadeError as error:
            status = status or rule_of(error).status
            raise
        finally:
            # never the path itself: whoever asks could make as many of those as they like
            route = getattr(scope.get("route"), "path", "none")
            self._requests.labels(route, status or 500).inc()
            if is_gone:
                self._cancelled.inc()
            caller = scope.get("state", {}).get("caller")
            if isinstance(caller, Caller) and caller.key is not None:
                self._key_requests.labels(caller.name, status or 500).inc()


class LastResort:
    """Answers what nobody foresaw, inside CORS, so that browsers may read the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        has_begun = False

        async def send_noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except (ClientDisconnect, SendTimeoutError):
            log.info("client_gone", path=scope["path"])
        except Exception as error:
            failure = report(error, scope["state"]["request_id"])
            if has_begun:
                raise  # the server then breaks the connection, and the client sees it broken
            if scope["path"].startswith(ANTHROPIC_PATH):
                failure = as_anthropic(failure, scope["state"]["request_id"])
            await failure.response()(scope, receive, send)
