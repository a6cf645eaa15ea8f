"""Frames leave for introduced neighbours only, in the order they were pushed."""

import asyncio

import pytest

from shared.errors import PeerUnreachable
from shared.identity import Identity
from shared.swarm import PeerId
from tests.shared.announcing import Clock, record
from worker import neighbours as neighbours_module
from worker.neighbours import REDIAL_SECONDS, Neighbours, Push

ANN, BOB = Identity(bytes([1]) * 32), Identity(bytes([2]) * 32)
GATE, EVE = PeerId("gate"), PeerId("eve")


class FakeLink:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.is_open = True

    def post_frame(self, frame: bytes) -> None:
        if not self.is_open:
            raise PeerUnreachable("closed")
        self.frames.append(frame)


class FakePool:
    """A pool whose dials end when told."""

    swarm = "test"

    def __init__(self) -> None:
        self.dialled: list[str] = []
        self.link: FakeLink | None = None
        self.answer: asyncio.Future[FakeLink] = asyncio.get_running_loop().create_future()

    def get(self, peer: PeerId) -> FakeLink | None:
        return self.link

    async def connect(self, peer: PeerId, url: str, certificate: bytes) -> FakeLink:
        self.dialled.append(url)
        return await self.answer


async def setup() -> tuple[FakePool, Neighbours, list[str]]:
    pool = FakePool()
    return pool, Neighbours(pool), []  # type: ignore[arg-type]


def push(frame: bytes, failures: list[str], relayed: list[bytes] | None = None) -> Push:
    relay = None if relayed is None else relayed.append
    return Push(b"session", frame, on_failed=failures.append, relay=relay)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_frame_for_a_linked_neighbour_leaves_at_once():
    pool, neighbours, failures = await setup()
    pool.link = FakeLink()
    neighbours.push(GATE, BOB.peer, push(b"1", failures))
    assert (pool.link.frames, failures) == ([b"1"], [])


async def test_one_who_was_never_introduced_is_not_dialled():
    pool, neighbours, failures = await setup()
    neighbours.push(GATE, BOB.peer, push(b"1", failures))
    await settle()
    assert pool.dialled == []
    assert failures == [f"{BOB.peer} was never introduced"]


async def test_frames_wait_in_order_while_an_introduced_neighbour_is_dialled_once():
    pool, neighbours, failures = await setup()
    neighbours.introduce(GATE, record(BOB, url="ws://127.0.0.1:9001"))
    neighbours.push(GATE, BOB.peer, push(b"1", failures))
    await settle()
    link = pool.link = FakeLink()  # it dialled us meanwhile: frames still wait their turn
    neighbours.push(GATE, BOB.peer, push(b"2", failures))
    assert link.frames == []
    pool.answer.set_result(link)
    await settle()
    neighbours.push(GATE, BOB.peer, push(b"3", failures))
    assert pool.dialled == ["ws://127.0.0.1:9001"]
    assert (link.frames, failures) == ([b"1", b"2", b"3"], [])


async def test_when_the_dial_fails_every_waiting_frame_hears_why_and_the_next_dials_anew():
    pool, neighbours, failures = await setup()
    neighbours.introduce(GATE, record(BOB))
    for frame in (b"1", b"2"):
        neighbours.push(GATE, BOB.peer, push(frame, failures))
    pool.answer.set_exception(PeerUnreachable("nobody there"))
    await settle()
    assert failures == ["nobody there"] * 2
    neighbours.push(GATE, BOB.peer, push(b"3", failures))
    await settle()
    assert len(pool.dialled) == 2


async def test_a_link_that_closes_before_the_frame_is_posted_counts_as_a_failure():
    pool, neighbours, failures = await setup()
    neighbours.introduce(GATE, record(BOB))
    neighbours.push(GATE, BOB.peer, push(b"1", failures))
    pool.link = FakeLink()
    pool.link.is_open = False
    pool.answer.set_result(pool.link)
    await settle()
    neighbours.push(GATE, BOB.peer, push(b"2", failures))
    assert failures == ["closed"] * 2


async def test_so_many_frames_wait_and_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours_module, "MAX_PENDING_FRAMES", 2)
    pool, neighbours, failures = await setup()
    neighbours.introduce(GATE, record(BOB))
    for frame in (b"1", b"2", b"3"):
        neighbours.push(GATE, BOB.peer, push(frame, failures))
    assert failures == [f"2 frames already wait for {BOB.peer}"]
    pool.answer.set_result(FakeLink())
    await settle()


@pytest.mark.parametrize(
    "introduction", [b"", b"rubbish", record(BOB)[:-1], record(BOB, swarm="another")]
)
async def test_a_record_that_is_forged_or_of_another_swarm_introduces_nobody(introduction: bytes):
    pool, neighbours, failures = await setup()
    neighbours.introduce(GATE, introduction)
    neighbours.push(GATE, BOB.peer, push(b"1", failures))
    assert len(failures) == 1
    assert pool.dialled == []


async def test_the_newest_address_is_dialled_whatever_order_records_come_in():
    pool, neighbours, failures = await setup()
    neighbours.introduce(GATE, record(BOB, sequence=2, url="ws://new:1"))
    neighbours.introduce(GATE, record(BOB, sequence=1, url="ws://old:1"))
    neighbours.push(GATE, BOB.peer, push(b"1", failures))
    await settle()
    assert pool.dialled == ["ws://new:1"]
    pool.answer.set_result(FakeLink())
    await settle()


async def test_those_introduced_longest_ago_are_forgotten_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours_module, "MAX_KNOWN", 1)
    _, neighbours, failures = await setup()
    neighbours.introduce(GATE, record(BOB))
    neighbours.introduce(GATE, record(ANN))
    neighbours.push(GATE, BOB.peer, push(b"1", failures))
    assert failures == [f"{BOB.peer} was never introduced"]


async def test_what_a_stranger_introduces_is_for_the_stranger_s_steps_alone(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(neighbours_module, "MAX_KNOWN", 1)
    pool, neighbours, failures = await setup()
    neighbours.introduce(GATE, record(BOB, url="ws://true:1"))
    neighbours.introduce(EVE, record(BOB, sequence=9, url="ws://other:1"))
    neighbours.introduce(EVE, record(ANN))
    neighbours.push(GATE, BOB.peer, push(b"1", failures))
    await settle()
    assert (pool.dialled, failures) == (["ws://true:1"], [])
    neighbours.forget(GATE)
    neighbours.push(GATE, ANN.peer, push(b"1", failures))
    assert failures == [f"{ANN.peer} was never introduced"]
    pool.answer.set_result(FakeLink())
    await settle()


async def test_so_many_workers_are_dialled_for_one_gateway_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(neighbours_module, "MAX_DIALS", 1)
    pool, neighbours, failures = await setup()
    for gateway in (EVE, GATE):
        for worker in (ANN, BOB):
            neighbours.introduce(gateway, record(worker))
    neighbours.push(EVE, ANN.peer, push(b"1", failures))
    neighbours.push(EVE, BOB.peer, push(b"1", failures))
    assert failures == ["1 workers are being dialled for this gateway already"]
    neighbours.push(GATE, BOB.peer, push(b"1", failures))
    assert len(failures) == 1
    pool.answer.set_result(FakeLink())
    await settle()


CLOSED = {"url": "", "attached": (GATE,)}


async def test_frames_for_one_that_cannot_be_dialled_go_through_the_gateway():
    pool, neighbours, failures = await setup()
    relayed: list[bytes] = []
    neighbours.introduce(GATE, record(BOB, **CLOSED))
    neighbours.push(GATE, BOB.peer, push(b"1", failures, relayed))
    await settle()
    assert (relayed, failures, pool.dialled) == ([b"1"], [], [])
    neighbours.push(GATE, BOB.peer, push(b"2", failures))
    assert failures == [f"{BOB.peer} cannot be dialled, and the gateway passes nothing on"]


async def test_no_frame_overtakes_another_of_its_session_by_a_link_that_comes_later():
    pool, neighbours, failures = await setup()
    relayed: list[bytes] = []
    neighbours.introduce(GATE, record(BOB, **CLOSED))
    neighbours.push(GATE, BOB.peer, push(b"1", failures, relayed))
    pool.link = FakeLink()
    neighbours.push(GATE, BOB.peer, push(b"2", failures, relayed))
    assert (relayed, pool.link.frames) == ([b"1", b"2"], [])
    neighbours.over(b"session")
    neighbours.push(GATE, BOB.peer, push(b"3", failures, relayed))
    assert (relayed, pool.link.frames) == ([b"1", b"2"], [b"3"])


async def test_after_a_dial_in_vain_frames_go_through_the_gateway_and_later_it_is_dialled_again():
    pool, neighbours, failures = await setup()
    clock = Clock()
    neighbours._clock = clock
    relayed: list[bytes] = []
    neighbours.introduce(GATE, record(BOB))
    for frame in (b"1", b"2"):
        neighbours.push(GATE, BOB.peer, push(frame, failures, relayed))
    pool.answer.set_exception(PeerUnreachable("nobody there"))
    await settle()
    assert (relayed, failures) == ([b"1", b"2"], [])
    neighbours.push(GATE, BOB.peer, push(b"3", failures, relayed))
    await settle()
    assert (relayed[2:], len(pool.dialled)) == ([b"3"], 1)
    clock.now += REDIAL_SECONDS
    neighbours.push(GATE, BOB.peer, push(b"4", failures, relayed))
    await settle()
    assert (relayed[3:], len(pool.dialled)) == ([b"4"], 2)


async def test_a_gateway_that_takes_no_frame_makes_the_next_hop_unreachable():
    _, neighbours, failures = await setup()

    def refuse(frame: bytes) -> None:
        raise PeerUnreachable("the gateway is gone")

    neighbours.introduce(GATE, record(BOB, **CLOSED))
    neighbours.push(GATE, BOB.peer, Push(b"session", b"1", failures.append, refuse))
    assert failures == ["the gateway is gone"]


async def test_asked_to_dial_one_that_cannot_dial_us_we_do_so_once():
    pool, neighbours, _ = await setup()
    neighbours.introduce(GATE, record(BOB, url="ws://there:1"))
    for worker in (BOB.peer, BOB.peer, ANN.peer):
        neighbours.dial(GATE, worker)
    await settle()
    assert pool.dialled == ["ws://there:1"]
    pool.answer.set_result(FakeLink())
    await settle()
