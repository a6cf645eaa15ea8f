"""A worker that nobody can dial holds on to several gateways."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from shared.errors import PeerUnreachable
from shared.swarm import Announcement, PeerId
from tests.shared.announcing import Clock, announcement
from worker import attachments as attachments_module
from worker.attachments import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Attachments, Redials

GATES = [PeerId(f"gate{n}") for n in range(5)]


def test_a_gateway_dialled_in_vain_is_dialled_ever_less_often():
    redials, now, pauses = Redials(), 0.0, []
    for _ in range(12):
        redials.dialled(GATES[0], now, is_linked=False, chance=0.5)
        pause = 0.0
        while not redials.may_dial(GATES[0], now + pause):
            pause += 0.5
        pauses.append(pause)
        now += pause
    assert pauses[:3] == [2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS, 8 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    redials.dialled(GATES[0], now, is_linked=True, chance=0.5)
    assert redials.may_dial(GATES[0], now + FIRST_PAUSE_SECONDS)


def test_many_workers_do_not_come_back_at_one_moment():
    due: set[float] = set()
    for chance in (0.0, 0.25, 0.5, 0.75):
        redials = Redials()
        redials.dialled(GATES[0], 0.0, is_linked=False, chance=chance)
        due.add(redials._due_at[GATES[0]])
    assert len(due) == 4


def test_gateways_that_are_gone_are_forgotten():
    redials = Redials()
    for gate in GATES:
        redials.dialled(gate, 0.0, is_linked=False, chance=0.5)
    redials.keep_only({GATES[0]: announcement()})
    assert list(redials._due_at) == list(redials._fails) == [GATES[0]]


class FakePool:
    """Links to those gateways that are up, until told otherwise."""

    def __init__(self) -> None:
        self.linked: set[PeerId] = set()
        self.down: set[PeerId] = set()
        self.dialled: list[PeerId] = []

    def get(self, peer: PeerId) -> object | None:
        return peer if peer in self.linked else None

    async def connect(self, peer: PeerId, url: str, certificate: bytes) -> None:
        self.dialled.append(peer)
        if peer in self.down:
            raise PeerUnreachable("down")
        self.linked.add(peer)


class World:
    """Some gateways, and a worker that keeps attached to two of them."""

    def __init__(self) -> None:
        self.pool = FakePool()
        self.view: dict[PeerId, Announcement] = {
            gate: announcement(worker=gate, url=f"ws://{gate}:1") for gate in GATES[:3]
        }
        self.changes: list[tuple[PeerId, ...]] = []
        self.clock = Clock()
        self.attachments = Attachments(
            self.pool,  # type: ignore[arg-type]
            lambda: self.view,
            wanted=2,
            on_changed=lambda: self.changes.append(self.attachments.peers),
            clock=self.clock,
        )


@asynccontextmanager
async def world(monkeypatch) -> AsyncIterator[World]:
    monkeypatch.setattr(attachments_module, "LOOK_SECONDS", 0.001)
    made = World()
    keeping = asyncio.create_task(made.attachments.keep())
    try:
        yield made
    finally:
        keeping.cancel()


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not claim():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_as_many_as_wanted_are_held_and_no_more(monkeypatch):
    async with world(monkeypatch) as made:
        await until(lambda: len(made.attachments.peers) == 2)
        await asyncio.sleep(0.02)
        assert (len(made.pool.dialled), made.changes) == (2, [made.attachments.peers])


async def test_in_place_of_one_that_is_lost_another_is_taken(monkeypatch):
    async with world(monkeypatch) as made:
        await until(lambda: len(made.attachments.peers) == 2)
        gone = made.attachments.peers[0]
        made.pool.linked.discard(gone)
        made.pool.down.add(gone)
        made.attachments.lost(gone)
        await until(lambda: made.changes[-1] != made.changes[0])
        await until(lambda: len(made.attachments.peers) == 2)
        assert gone not in made.attachments.peers


async def test_one_that_is_about_to_leave_is_not_attached_to(monkeypatch):
    monkeypatch.setattr(attachments_module, "LOOK_SECONDS", 0.001)
    made = World()
    for gate in GATES[:2]:
        made.view[gate] = announcement(worker=gate, url="ws://x:1", leaving=True)
    keeping = asyncio.create_task(made.attachments.keep())
    await until(lambda: made.attachments.peers == (GATES[2],))
    await asyncio.sleep(0.02)
    keeping.cancel()
    assert made.pool.dialled == [GATES[2]]


async def test_one_that_does_not_answer_is_left_alone_for_a_while(monkeypatch):
    monkeypatch.setattr(attachments_module, "LOOK_SECONDS", 0.001)
    made = World()
    made.view = {GATES[0]: made.view[GATES[0]]}
    made.pool.down.add(GATES[0])
    keeping = asyncio.create_task(made.attachments.keep())
    await until(lambda: made.pool.dialled)
    await asyncio.sleep(0.02)
    assert len(made.pool.dialled) == 1
    made.clock.now += LONGEST_PAUSE_SECONDS
    await until(lambda: len(made.pool.dialled) == 2)
    keeping.cancel()
