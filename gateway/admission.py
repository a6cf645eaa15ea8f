"""How many generations run at once, and how many may wait for their turn."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from shared.errors import RequestError


class Admission:
    """`max_streams` slots, first come first served; at most `max_waiting` wait for one."""

    def __init__(self, *, max_streams: int, max_waiting: int) -> None:
        self.max_streams = max_streams
        self.max_waiting = max_waiting
        self.num_running = 0
        self.num_waiting = 0
        # A woken waiter keeps the semaphore locked for newcomers, so nobody jumps the queue.
        self._slots = asyncio.Semaphore(max_streams)

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None, None]:
        """Holds a slot. Raises RequestError 503 when as many wait as may."""
        await self._enter()
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1
            self._slots.release()

    async def _enter(self) -> None:
        if self._slots.locked() and self.num_waiting >= self.max_waiting:
            raise RequestError(
                f"All {self.max_streams} slots are taken and {self.num_waiting} requests wait. "
                "Please retry later.",
                reason="server_is_overloaded",
                status=503,
            )
        self.num_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.num_waiting -= 1
