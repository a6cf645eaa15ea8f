"""The HTTP server: uvicorn, which stops so that those who send it requests can turn elsewhere."""

import asyncio
import signal
import socket
from contextlib import suppress
from types import FrameType

import uvicorn


class Server(uvicorn.Server):
    """Goes on taking requests for `drain_seconds` after SIGTERM, with `is_stopping` set.

    A load balancer hears of that from /ready, or learns only now that this process is to go, and
    sends requests until then. Whoever sends SIGINT, or a second signal, wants no such wait.
    """

    def __init__(
        self, config: uvicorn.Config, *, is_stopping: asyncio.Event, drain_seconds: float
    ) -> None:
        super().__init__(config)
        self.is_stopping = is_stopping
        self._drain_seconds = drain_seconds
        self._is_hurried = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called in the midst of anything, for SIGINT and SIGTERM."""
        if self.should_exit or sig == signal.SIGINT:
            self._loop.call_soon_threadsafe(self._is_hurried.set)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn once it was told to stop."""
        self.is_stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                await self._is_hurried.wait()
        await super().shutdown(sockets)
