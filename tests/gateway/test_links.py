"""What a gateway's links remember of workers: whom to avoid, and what they were not told."""

import asyncio
import time
from contextlib import AsyncExitStack

from gateway.links import AVOID_SECONDS, Links
from shared.discovery.directory import MemoryDirectory
from shared.discovery.watcher import Watcher
from shared.identity import Identity
from shared.swarm import Hop, PeerId, SessionId, Span, topic_of
from tests.scripted_worker import SPEC, SWARM, ScriptedWorker

ANN = PeerId("ann")
SESSION = SessionId(b"s" * 16)


class Time:
    """A clock that stands still."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def links(directory: MemoryDirectory | None = None, clock: Time | None = None) -> Links:
    topic = topic_of(SWARM, SPEC.name, SPEC.revision)
    watcher = Watcher(directory or MemoryDirectory(time.monotonic), topic)
    return Links(Identity.create(), SWARM, watcher, clock=clock or Time())


def test_one_incident_counts_once_however_many_sessions_notice_it():
    clock = Time()
    ours = links(clock=clock)
    for _ in range(6):
        ours.blame(ANN)
    clock.now += AVOID_SECONDS
    assert ours.avoided() == set()


def test_each_further_incident_doubles_the_time():
    clock = Time()
    ours = links(clock=clock)
    ours.blame(ANN)
    clock.now += AVOID_SECONDS
    ours.blame(ANN)
    clock.now += 2 * AVOID_SECONDS - 0.1
    assert ours.avoided() == {ANN}
    clock.now += 0.1
    assert ours.avoided() == set()


async def test_a_worker_that_comes_back_hears_of_the_sessions_that_ended_meanwhile():
    async with AsyncExitStack() as stack:
        directory = MemoryDirectory(time.monotonic)
        worker = await stack.enter_async_context(ScriptedWorker(Span(0, 4)).serving())
        await worker.announce(directory)
        ours = links(directory)
        stack.push_async_callback(ours.close)
        await ours.watcher.refresh()
        ours.open_inbox(SESSION)
        ours.close_session(SESSION, [worker.peer], ())
        assert worker.closed == []
        await ours.prepare((Hop(worker.peer, Span(0, 4)),))
        async with asyncio.timeout(5):
            while worker.closed != [SESSION]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert worker.peer in ours.linked()
