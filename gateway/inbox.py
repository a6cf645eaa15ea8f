"""What may happen to a generation, and where it waits until the generation looks."""

import asyncio
from collections import deque

import msgspec

from gateway.alarm import Alarm
from shared.swarm import Hop, PeerId, Route
from shared.wire.codec import Frame
from shared.wire.messages import Checkpoint, Refused

MAX_WAITING_BYTES = 128 << 20
"""Checkpoint copies one generation lets wait; more are dropped, as they only shorten recoveries."""


class FrameArrived(msgspec.Struct, frozen=True):
    """A worker said something about the session."""

    worker: PeerId
    frame: Frame


class WorkerLost(msgspec.Struct, frozen=True):
    """The last link to a worker ended."""

    worker: PeerId


class ViewChanged(msgspec.Struct, frozen=True):
    """There may be a route where there was none, or a worker that is about to leave."""


class ShadowsFound(msgspec.Struct, frozen=True):
    """Workers that could shadow a hop; none when there are none at the moment."""

    hop: Hop
    hops: Route


class Accused(msgspec.Struct, frozen=True):
    """A worker could not reach the next hop, which has been asked whether it is there."""

    worker: PeerId
    refusal: Refused
    answers: bool


Event = Accused | FrameArrived | WorkerLost | ViewChanged | ShadowsFound


class Inbox:
    """The events of one generation, in the order they came."""

    def __init__(self) -> None:
        self.num_dropped = 0
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._alarm = Alarm(lambda: self._wake(is_late=True))

    def put(self, event: Event) -> None:
        """Add an event, unless it is a copy too many."""
        size = _copied_bytes(event)
        if size and self._bytes + size > MAX_WAITING_BYTES:
            self.num_dropped += 1
            return
        self._bytes += size
        self._events.append((event, size))
        self._wake(is_late=False)

    async def get(self, seconds: float) -> Event:
        """The next event. Raises TimeoutError when none comes within so many seconds."""
        if not self._events:
            self._alarm.set(seconds)  # not stopped after: with nobody waiting it wakes nobody
            self._waiter = self._loop.create_future()
            if await self._waiter:
                raise TimeoutError
        event, size = self._events.popleft()
        self._bytes -= size
        return event

    def close(self) -> None:
        """Nobody waits here any more."""
        self._alarm.close()

    def _wake(self, *, is_late: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(is_late)


def _copied_bytes(event: Event) -> int:
    if isinstance(event, FrameArrived) and isinstance(event.frame.message, Checkpoint):
        return len(event.frame.payload)
    return 0
