"""Workers that look for their place in a swarm whose directory is in memory."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import msgspec
import pytest

from shared.discovery.directory import MemoryDirectory
from shared.errors import ConfigError
from shared.identity import Identity
from shared.placement import survey
from shared.records import open_record, sign_announcement
from shared.swarm import Announcement, Span
from tests.fakes import SPEC
from worker.node import Node
from worker.placing import Place
from worker.room import Room, room_for
from worker.settings import WorkerSettings

JOIN = ["/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWDGwPhginUVjGTqYWG5b82pZeoVLZkhJdzBw5YC7Se74E"]
ROOM = Room(num_blocks=8, speed=100.0)


class StandIn:
    """A node that serves a span as far as others can see."""

    def __init__(self, place: Place, identity: Identity, span: Span) -> None:
        self.span = span
        self._place, self._identity = place, identity
        self._next_span: Span | None = None
        self.is_stalled = self.is_leaving = False

    def announcement(self) -> Announcement:
        said = self._place._announcement(self.span, ROOM, intends=self._next_span is not None)
        changes = {"dtype": "float32", "leaving": self.is_leaving, "next_span": self._next_span}
        return msgspec.structs.replace(said, **changes)

    async def intend(self, next_span: Span | None) -> None:
        self._next_span = next_span
        await self.tell()

    def all_is_stalled(self) -> None:
        self.is_stalled = True

    async def tell(self) -> None:
        said = self.announcement()
        record = sign_announcement(self._identity, said)
        await self._place._directory.announce(said.topic, record)


def settings(**changes: Any) -> WorkerSettings:
    values = {"join": JOIN, "settle_seconds": 0.1, "move_check_seconds": 0.2}
    return WorkerSettings(**values | changes)


def identity(number: int) -> Identity:
    return Identity(bytes([number]) * 32)


@asynccontextmanager
async def places(count: int, **changes: Any) -> AsyncIterator[tuple[MemoryDirectory, list[Place]]]:
    directory = MemoryDirectory(time.monotonic)
    async with AsyncExitStack() as stack:
        made = [
            Place(settings(**changes), identity(n + 1), SPEC, directory, chance=random.Random(n))
            for n in range(count)
        ]
        for place in made:
            await stack.enter_async_context(place.looking())
        yield directory, made


async def serve(places: list[Place], spans: list[str]) -> list[StandIn]:
    """Have workers host spans already."""
    nodes = [
        StandIn(place, identity(n + 1), Span.parse(span))
        for n, (place, span) in enumerate(zip(places, spans, strict=True))
    ]
    for node in nodes:
        await node.tell()
    return nodes


async def test_newcomers_at_the_same_moment_take_different_blocks():
    async with places(3) as (_, made), asyncio.timeout(20):
        spans = await asyncio.gather(*(place.choose(ROOM) for place in made))
    assert sorted(spans) == [Span(0, 8), Span(8, 16), Span(16, 24)]


async def test_the_first_of_a_swarm_waits_for_nobody():
    async with places(1, join=[], settle_seconds=500) as (_, (place,)), asyncio.timeout(5):
        assert await place.neediest() == 0
        assert await place.choose(Room(99, 1.0)) == Span(0, 24)


async def test_while_a_span_is_loaded_the_swarm_hears_that_it_is_coming_and_sends_nothing():
    async with places(1) as (directory, (place,)), place.loading(Span(8, 16), ROOM):
        (sighting,) = await directory.lookup(place._watcher._topics[0])
        said = open_record(sighting.record)
    assert (said.leaving, said.next_span, said.intends) == (True, Span(8, 16), False)
    seen = survey({said.worker: said}, SPEC.num_blocks)
    assert seen.levels[8:16] == [pytest.approx(100 / 8)] * 8
    assert seen.num_serving == [0] * 24


async def test_one_of_two_spares_moves_to_a_hole_after_saying_so():
    async with places(3) as (_, made), asyncio.timeout(20):
        nodes = await serve(made, ["0:8", "0:8", "8:16"])
        moving = [
            asyncio.create_task(place.next_span(cast("Node", node)))
            for place, node in zip(made, nodes, strict=True)
        ]
        done, _ = await asyncio.wait(moving, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)  # one that decided in the same moment would be done as well
        assert [task.result() for task in done] == [Span(16, 24)]
        assert not moving[2].done()
        assert nodes[moving.index(done.pop())].announcement().next_span == Span(16, 24)
        for task in moving:
            task.cancel()


@pytest.mark.parametrize(
    ("spans", "leaving", "is_stalled"),
    [
        (["0:12", "12:24", "0:12"], [0], False),
        (["0:12", "12:24"], [0], False),
        (["0:12", "12:24"], [0, 1], False),  # the other serves on until it is gone
        (["0:12", "12:20"], [0], True),
    ],
)
async def test_one_that_leaves_is_hastened_while_there_is_a_hole_that_is_not_of_its_making(
    spans: list[str], leaving: list[int], is_stalled: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("worker.placing.LOOK_SECONDS", 0.01)
    async with places(len(spans)) as (_, made):
        nodes = await serve(made, spans)
        for number in leaving:
            nodes[number].is_leaving = True
            await nodes[number].tell()
        await made[0]._watcher.refresh()
        hastening = asyncio.create_task(made[0].hasten(cast("Node", nodes[0])))
        await asyncio.wait([hastening], timeout=5 if is_stalled else 0.2)
        assert nodes[0].is_stalled == is_stalled
        hastening.cancel()


async def test_nobody_moves_in_a_swarm_that_is_well_placed():
    async with places(3) as (_, made):
        nodes = await serve(made, ["0:8", "8:16", "16:24"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await made[0].next_span(cast("Node", nodes[0]))


@pytest.mark.parametrize(
    ("free", "expected"),
    [(1000, 8), (9_990, 79), (10_000, 80), (100_000, 80)],
)
def test_blocks_fit_beside_their_caches_in_a_part_of_the_free_memory(free: int, expected: int):
    fitting = room_for(
        free=free, block_bytes=80, end_bytes=0, token_bytes=1, tokens=10, num_blocks=80
    )
    assert fitting == expected


def test_the_whole_model_has_two_ends_and_less_has_one():
    sizes = {"block_bytes": 100, "end_bytes": 50, "token_bytes": 0, "tokens": 1, "num_blocks": 7}
    assert room_for(free=1000, **sizes) == 7
    assert room_for(free=999, **sizes) == 6


def test_no_room_for_a_single_block_is_said_with_the_numbers_and_the_remedy():
    with pytest.raises(ConfigError, match=r"0\.1 MB free.*--quant nf4"):
        room_for(
            free=100_000,
            block_bytes=80_000,
            end_bytes=0,
            token_bytes=1000,
            tokens=10,
            num_blocks=8,
        )
