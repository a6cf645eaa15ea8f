"""What a gateway's links remember of workers: whom to avoid, and what they were not told."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.blame import Blame
from gateway.links import AVOID_SECONDS, FORESEEN_SECONDS, Links
from gateway.scout import Scout, Wish
from shared.discovery.directory import MemoryDirectory
from shared.discovery.watcher import Watcher
from shared.identity import Identity
from shared.swarm import Hop, PeerId, Route, SessionId, Span, topic_of
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


@asynccontextmanager
async def twins() -> AsyncIterator[tuple[Links, list[ScriptedWorker]]]:
    """Links to two workers that host the whole model."""
    async with AsyncExitStack() as stack:
        directory = MemoryDirectory(time.monotonic)
        workers = [
            await stack.enter_async_context(ScriptedWorker(SPEC.blocks).serving()) for _ in range(2)
        ]
        for worker in workers:
            await worker.announce(directory)
        ours = links(directory)
        stack.push_async_callback(ours.close)
        await ours.watcher.refresh()
        yield ours, workers


def scout(ours: Links, trusted: set[PeerId] | None = None) -> Scout:
    return Scout(
        ours,
        Blame(),
        lambda: Wish(text_tokens=10, more_tokens=10, row_bytes=16),
        num_blocks=SPEC.num_blocks,
        trusted=trusted,
    )


async def test_sessions_that_begin_together_do_not_pile_up_on_one_worker():
    async with twins() as (ours, workers):
        engaged: list[PeerId] = []
        for number in range(6):
            (hop,) = scout(ours).find(SPEC.blocks, ())
            ours.surveyor.engaged(SessionId(bytes([number]) * 16), {hop.worker})
            engaged.append(hop.worker)
        assert [engaged.count(worker.peer) for worker in workers] == [3, 3]


async def test_where_only_some_are_trusted_they_get_the_ends():
    async with twins() as (ours, workers):
        for worker in workers:
            (hop,) = scout(ours, {worker.peer}).find(SPEC.blocks, ())
            assert hop.worker == worker.peer


async def test_who_may_take_over_is_told_of_the_route_now_and_then(monkeypatch):
    async with AsyncExitStack() as stack:
        directory = MemoryDirectory(time.monotonic)
        spans = (Span(0, 2), Span(2, 4), Span(2, 4))
        first, second, twin = [
            await stack.enter_async_context(ScriptedWorker(span).serving()) for span in spans
        ]
        for worker in (first, second, twin):
            await worker.announce(directory)
        clock = Time()
        ours, acquainted = links(directory, clock), list[Route]()
        stack.push_async_callback(ours.close)
        await ours.watcher.refresh()
        monkeypatch.setattr(ours, "acquaint", acquainted.append)
        for seconds in (0.0, FORESEEN_SECONDS / 2, FORESEEN_SECONDS):
            clock.now += seconds
            scout(ours).foresee((first.hop, second.hop))
        assert acquainted == [(first.hop, twin.hop)] * 2  # nobody else has what the first has


async def test_a_link_soon_knows_how_far_it_reaches():
    async with twins() as (ours, workers):
        assert ours.survey().delays == {}
        await ours.prepare((Hop(workers[0].peer, SPEC.blocks),))
        async with asyncio.timeout(5):
            while not (delays := ours.survey().delays):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert 0 < delays[workers[0].peer] < 1


async def test_a_view_is_laid_out_once_for_all_who_plan():
    async with twins() as (ours, workers):
        first = ours.roster(SPEC.num_blocks)
        assert ours.roster(SPEC.num_blocks) is first
        ours.watcher.lost(workers[0].peer)
        assert ours.roster(SPEC.num_blocks) is not first


async def test_a_dial_that_fails_as_nobody_foresaw_does_not_end_dialling(monkeypatch):
    directory = MemoryDirectory(time.monotonic)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            worker = await stack.enter_async_context(ScriptedWorker(Span(0, 4)).serving())
            await worker.announce(directory)
        ours, tried = links(directory), list[str]()
        stack.push_async_callback(ours.close)
        await ours.watcher.refresh()

        async def connect(worker: PeerId) -> None:
            tried.append(worker)
            raise RuntimeError(worker)

        monkeypatch.setattr(ours, "_connect", connect)
        keeper = asyncio.create_task(ours.keep_linked())
        async with asyncio.timeout(5):
            while len(tried) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        assert not keeper.done()
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
