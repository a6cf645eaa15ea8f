"""A peer that wants too much waits or goes; some room is always left for others."""

from shared.swarm import PeerId
from shared.wire import bounds
from shared.wire.bounds import (
    BURST_FRAMES,
    FRAMES_PER_SECOND,
    MAX_LINKS,
    Allowance,
    Doors,
    Room,
    cost_of,
)
from shared.wire.codec import Frame
from shared.wire.messages import Close, DialBack, Introduce, Message, Relay


def frame(message: Message, payload: bytes = b"") -> Frame:
    return Frame(message, memoryview(payload))  # type: ignore[arg-type]


def test_a_burst_is_read_at_once_and_a_flood_at_the_rate():
    allowance = Allowance()
    pauses = [allowance.pause_seconds(1, now=0.0) for _ in range(int(BURST_FRAMES) + 100)]
    assert max(pauses[: int(BURST_FRAMES) - 1]) == 0
    assert abs(pauses[-1] - 100 / FRAMES_PER_SECOND) < 1e-6


def test_one_that_paused_may_burst_again():
    allowance = Allowance()
    for _ in range(2 * int(BURST_FRAMES)):
        allowance.pause_seconds(1, now=0.0)
    assert allowance.pause_seconds(1, now=60.0) == 0


def test_signatures_to_check_cost_more():
    plain = cost_of(frame(Close(bytes(16))))
    assert cost_of(frame(Introduce((b"r",) * 20))) > 100 * plain
    assert cost_of(frame(DialBack(b"r"))) > 10 * plain


def test_what_is_to_be_passed_on_costs_by_its_size():
    relay = Relay(bytes(16), 1, PeerId("bob"))
    per_second = FRAMES_PER_SECOND / cost_of(frame(relay, bytes(1 << 20)))
    assert 100 < per_second < 200  # MiB


def test_nobody_may_hold_more_than_is_left_for_others():
    room = Room(100)
    assert room.has_for(0, 50)
    assert not room.has_for(0, 51)
    room.take(50)
    assert not room.has_for(50, 1)
    assert room.has_for(0, 25)
    room.take(-50)
    assert room.left == 100


def test_an_address_has_so_many_links_and_others_have_theirs():
    doors = Doors(per_address=2)
    assert [bool(doors.enter("a")) for _ in range(3)] == [False, False, True]
    assert doors.enter("b") == ""
    doors.leave("a")
    assert doors.enter("a") == ""


def test_no_address_can_open_more_than_all_links(monkeypatch):
    monkeypatch.setattr(bounds, "MAX_LINKS", 3)
    doors = Doors(per_address=0)
    assert [doors.enter("a") for _ in range(3)] == [""] * 3
    assert "3 links" in doors.enter("b")
    assert MAX_LINKS > 3
