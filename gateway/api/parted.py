"""A response whose body lies in parts, which are neither joined nor kept after they are sent."""

from collections.abc import Callable, Mapping, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class PartedResponse(Response):
    """Sends the parts one after the other, then calls `on_end`, however that went."""

    def __init__(
        self,
        parts: Sequence[bytes | memoryview],
        *,
        media_type: str,
        headers: Mapping[str, str],
        on_end: Callable[[], None],
    ) -> None:
        size = {"content-length": str(sum(map(len, parts)))}
        super().__init__(media_type=media_type, headers={**headers, **size})
        self._parts = list(parts)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        try:
            await send({"type": "http.response.start", **start})
            while self._parts:
                part = bytes(self._parts.pop(0))
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._parts.clear()
            self._on_end()
