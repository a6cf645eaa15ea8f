"""A time limit that is put off again and again and hardly ever reached.

`asyncio.timeout` makes a timer each time and cancels it. With a token a time that is a good part of
what a token costs; here one timer is kept, and set anew only where it rings too early.
"""

import asyncio
from collections.abc import Callable
from math import inf


class Alarm:
    """Calls `ring` when the time it was set to has passed, unless it was set anew or stopped."""

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._rings_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf

    def set(self, seconds: float) -> None:
        """Ring in so many seconds from now, and not before."""
        self._rings_at = rings_at = self._loop.time() + seconds
        if self._timer_at > rings_at:
            self._start(rings_at)

    def stop(self) -> None:
        """Do not ring. The timer stays, for the next time."""
        self._rings_at = None

    def close(self) -> None:
        """Do not ring any more."""
        self.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, inf

    def _start(self, rings_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(rings_at, self._timer_is_over)
        self._timer_at = rings_at

    def _timer_is_over(self) -> None:
        self._timer, self._timer_at = None, inf
        if self._rings_at is None:
            return
        if self._loop.time() < self._rings_at:
            self._start(self._rings_at)
        else:
            self._rings_at = None
            self._ring()
