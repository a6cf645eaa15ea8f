"""What may happen to a generation, and where it waits until the generation looks."""

import asyncio
from dataclasses import dataclass

from shared.swarm import Hop, PeerId, Route
from shared.wire.codec import Frame
from shared.wire.messages import Checkpoint, Refused

MAX_WAITING_BYTES = 128 << 20
"""Checkpoint copies one generation lets wait; more are dropped, as they only shorten recoveries."""


@dataclass(frozen=True)
class FrameArrived:
    """A worker said something about the session."""

    worker: PeerId
    frame: Frame


@dataclass(frozen=True)
class WorkerLost:
    """The last link to a worker ended."""

    worker: PeerId


@dataclass(frozen=True)
class ViewChanged:
    """There may be a route where there was none, or a worker that is about to leave."""


@dataclass(frozen=True)
class ShadowsFound:
    """Workers that could shadow a hop; none when there are none at the moment."""

    hop: Hop
    hops: Route


@dataclass(frozen=True)
class Accused:
    """A worker could not reach the next hop, which has been asked whether it is there."""

    worker: PeerId
    refusal: Refused
    answers: bool


Event = Accused | FrameArrived | WorkerLost | ViewChanged | ShadowsFound


class Inbox:
    """The events of one generation, in the order they came."""

    def __init__(self) -> None:
        self.num_dropped = 0
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._bytes = 0

    def put(self, event: Event) -> None:
        """Add an event, unless it is a copy too many."""
        size = _copied_bytes(event)
        if size and self._bytes + size > MAX_WAITING_BYTES:
            self.num_dropped += 1
            return
        self._bytes += size
        self._events.put_nowait(event)

    async def get(self) -> Event:
        """The next event."""
        event = await self._events.get()
        self._bytes -= _copied_bytes(event)
        return event


def _copied_bytes(event: Event) -> int:
    if isinstance(event, FrameArrived) and isinstance(event.frame.message, Checkpoint):
        return len(event.frame.payload)
    return 0
