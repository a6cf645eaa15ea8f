"""An inbox keeps order, and drops copies beyond what one generation may let wait."""

import asyncio

import pytest

from gateway import inbox
from gateway.inbox import FrameArrived, Inbox, ViewChanged, WorkerLost
from shared.swarm import PeerId
from shared.wire.codec import Frame
from shared.wire.messages import Checkpoint, Filled

ANN = PeerId("ann")


def copied(size: int) -> FrameArrived:
    message = Checkpoint(bytes(16), 1, 8, 0, 1, "float32")
    return FrameArrived(ANN, Frame(message, memoryview(bytes(size))))


async def test_events_come_in_the_order_they_were_put():
    events = [WorkerLost(ANN), ViewChanged(), copied(4)]
    box = Inbox()
    for event in events:
        box.put(event)
    assert [await box.get(5) for _ in events] == events


async def test_copies_are_dropped_while_too_many_wait(monkeypatch):
    monkeypatch.setattr(inbox, "MAX_WAITING_BYTES", 10)
    box = Inbox()
    filled = FrameArrived(ANN, Frame(Filled(bytes(16), 1, 8, 1), memoryview(b"")))
    for event in (copied(8), copied(8), filled):
        box.put(event)
    assert await box.get(5) == copied(8)
    assert await box.get(5) == filled
    assert box.num_dropped == 1
    box.put(copied(8))
    assert await box.get(5) == copied(8)


async def test_a_wait_for_an_event_ends_in_time_and_the_next_one_is_as_good():
    box = Inbox()
    with pytest.raises(TimeoutError):
        await box.get(0.01)
    asyncio.get_running_loop().call_soon(box.put, ViewChanged())
    assert await box.get(5) == ViewChanged()
    box.put(ViewChanged())
    assert await box.get(0) == ViewChanged()
