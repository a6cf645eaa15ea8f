"""A store whose troubles cost little: they are logged now and then, and it gets time to recover.

Otherwise each call to a store that does not answer would take its whole time limit.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from gateway.metrics import GatewayMetrics
from gateway.store import EntryTooLarge, Store, StoreError

log = structlog.get_logger()

T = TypeVar("T")

REST_SECONDS: Final = 1.0
"""After a failure every call fails for so long."""

SILENCE_SECONDS: Final = 60.0
"""Between two lines in the log about a store that fails."""


class SteadyStore:
    """What `store` does, for as long as it works."""

    def __init__(
        self,
        store: Store,
        metrics: GatewayMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._failures = metrics.store_failures
        self._clock = clock
        self._rests_until = -REST_SECONDS
        self._silent_until = -SILENCE_SECONDS
        self._is_failing = False

    async def get(self, key: str) -> bytes | None:
        """See Store."""
        return await self._ask(lambda: self._store.get(key))

    async def put(self, key: str, value: bytes, *, seconds: float) -> None:
        """See Store."""
        await self._ask(lambda: self._store.put(key, value, seconds=seconds))

    async def append(self, key: str, value: bytes, *, at: int, seconds: float) -> int:
        """See Store."""
        return await self._ask(lambda: self._store.append(key, value, at=at, seconds=seconds))

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, seconds: float) -> bool:
        """See Store."""
        return await self._ask(lambda: self._store.swap(key, old, new, seconds=seconds))

    async def check(self) -> None:
        """See Store."""
        await self._ask(self._store.check)

    async def close(self) -> None:
        """See Store."""
        await self._store.close()

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        if self._clock() < self._rests_until:
            raise StoreError("the resume store failed a moment ago")
        try:
            answer = await call()
        except EntryTooLarge:
            raise
        except StoreError as error:
            self._failed(error)
            raise
        if self._is_failing:
            self._is_failing = False
            log.info("resume_store_back")
        return answer

    def _failed(self, error: StoreError) -> None:
        now = self._clock()
        self._failures.inc()
        self._is_failing = True
        self._rests_until = now + REST_SECONDS
        if now >= self._silent_until:
            self._silent_until = now + SILENCE_SECONDS
            log.warning("resume_store_failed", reason=str(error))
