"""A watcher's view follows the directory and the links, and says when it changes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from shared.discovery import watcher as watcher_module
from shared.discovery.directory import MemoryDirectory, Sighting
from shared.discovery.watcher import Watcher
from shared.errors import PeerUnreachable
from shared.swarm import topic_of
from tests.shared.announcing import ANN, BOB, NOW, TOPIC, Clock, announcement, record


class World:
    """A directory and a watcher on the same two clocks."""

    def __init__(self) -> None:
        self.clock, self.monotonic = Clock(NOW), Clock()
        self.directory = MemoryDirectory(self.monotonic)
        self.watcher = self.watch(TOPIC)

    def watch(self, *topics: str) -> Watcher:
        return Watcher(
            self.directory,
            topics,
            poll_seconds=0.01,
            clock=self.clock,
            monotonic=self.monotonic,
        )

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.monotonic.now += seconds


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.watcher.stop()


async def test_a_worker_is_seen_and_its_record_kept(world: World):
    await world.directory.announce(TOPIC, record(ANN))
    await world.watcher.refresh()
    assert world.watcher.view == {ANN.peer: announcement(ANN)}
    assert world.watcher.record_of(ANN.peer) == record(ANN)
    assert world.watcher.record_of(BOB.peer) is None


async def test_a_silent_worker_is_out_when_its_lease_has_passed(world: World):
    await world.directory.announce(TOPIC, record(ANN))
    world.wait(2)
    await world.watcher.refresh()
    assert world.watcher.expires_in(ANN.peer) == 10
    world.wait(10)
    await world.watcher.refresh()
    assert world.watcher.view == {}
    assert world.watcher.expires_in(ANN.peer) == 0


async def test_live_links_win_over_the_directory(world: World):
    await world.directory.announce(TOPIC, record(ANN))
    await world.watcher.refresh()
    world.watcher.lost(ANN.peer)
    assert world.watcher.view == {}
    await world.watcher.refresh()
    assert world.watcher.view == {}
    await world.directory.announce(TOPIC, record(ANN, sequence=2))
    await world.watcher.refresh()
    assert world.watcher.view[ANN.peer].sequence == 2


async def test_several_topics_make_one_view(world: World):
    other = topic_of("test", "other", "abc123")
    await world.directory.announce(TOPIC, record(ANN))
    await world.directory.announce(other, record(BOB, model="other"))
    watcher = world.watch(TOPIC, other)
    await watcher.refresh()
    assert set(watcher.view) == {ANN.peer, BOB.peer}


async def test_polling_wakes_those_who_wait_for_a_change(world: World):
    await world.watcher.start()
    waiting = asyncio.create_task(world.watcher.wait_changed())
    await asyncio.sleep(0)
    await world.directory.announce(TOPIC, record(ANN))
    await asyncio.wait_for(waiting, 5)
    assert set(world.watcher.view) == {ANN.peer}
    waiting = asyncio.create_task(world.watcher.wait_changed())
    await asyncio.sleep(0)
    world.watcher.lost(ANN.peer)
    await asyncio.wait_for(waiting, 5)


async def test_leases_run_out_while_the_directory_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watcher_module, "SWEEP_SECONDS", 0.01)
    await world.directory.announce(TOPIC, record(ANN))
    await world.watcher.refresh()

    async def hang(topic: str) -> list[Sighting]:
        await asyncio.Event().wait()
        raise AssertionError(topic)

    world.directory.lookup = hang
    await world.watcher.start()
    waiting = asyncio.create_task(world.watcher.wait_changed())
    await asyncio.sleep(0)
    world.wait(12)
    await asyncio.wait_for(waiting, 5)
    assert world.watcher.view == {}


@pytest.mark.parametrize("error", [PeerUnreachable("down"), RuntimeError("a bug")])
async def test_polling_survives_a_failing_directory(world: World, error: Exception):
    lookup = world.directory.lookup
    failed = asyncio.Event()

    async def fail(topic: str) -> list[Sighting]:
        world.directory.lookup = lookup
        failed.set()
        raise error

    world.directory.lookup = fail
    await world.directory.announce(TOPIC, record(ANN))
    waiting = asyncio.create_task(world.watcher.wait_changed())
    await world.watcher.start()
    await asyncio.wait_for(waiting, 5)
    assert failed.is_set()


async def test_joins_and_leaves_are_logged(world: World):
    await world.directory.announce(TOPIC, record(ANN))
    with capture_logs() as logs:
        await world.watcher.refresh()
        world.watcher.lost(ANN.peer)
    facts = {"worker": ANN.peer, "model": "acme/tiny", "span": "0:8", "url": "ws://127.0.0.1:9000"}
    assert logs == [
        {"event": "worker_joined", "log_level": "info", **facts},
        {"event": "worker_left", "log_level": "info", "reason": "lost", **facts},
    ]


async def test_a_wrong_clock_is_reported_once_a_minute(world: World):
    await world.directory.announce(TOPIC, record(ANN, issued_at=NOW + 1000))
    with capture_logs() as logs:
        await world.watcher.refresh()
        await world.watcher.refresh()
    assert [(log["event"], log["num"]) for log in logs] == [("records_refused", 1)]
    assert "one of the two clocks is wrong" in logs[0]["error"]


async def test_a_linked_worker_stays_though_its_announcements_are_late(world: World):
    await world.directory.announce(TOPIC, record(ANN))
    await world.watcher.refresh()
    world.watcher.linked = lambda: {ANN.peer}
    world.wait(60)
    await world.watcher.refresh()
    assert list(world.watcher.view) == [ANN.peer]
    world.watcher.linked = frozenset
    await world.watcher.refresh()
    assert world.watcher.view == {}
