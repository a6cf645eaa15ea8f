"""Copies of decode steps are gathered; everything else goes as it is and in order."""

from shared.swarm import PeerId
from shared.wire.messages import MAX_GATHERED_TOKENS, Checkpoint
from worker.copies import Copies

GATEWAY = PeerId("gateway")
ONE, TWO = b"1" * 16, b"2" * 16


class Sent(list[tuple[int, int, bytes]]):
    """(position, count, payload) of what was sent."""

    def __call__(self, gateway: PeerId, copy: Checkpoint, payload: bytes) -> None:
        assert gateway == GATEWAY
        self.append((copy.position, copy.count, payload))


def copy(position: int, count: int = 1, *, epoch: int = 1, session: bytes = ONE) -> Checkpoint:
    return Checkpoint(session, epoch, 8, position, count, "float32")


def added(*copies: Checkpoint, gathers: bool = True) -> tuple[Sent, Copies]:
    sent = Sent()
    gathered = Copies(sent)
    for one in copies:
        gathered.add(GATEWAY, one, b"abcdefgh"[one.position % 8 :][: one.count], gathers=gathers)
    return sent, gathered


def test_copies_that_follow_each_other_go_together():
    sent, gathered = added(copy(0), copy(1), copy(2))
    assert sent == []
    gathered.flush()
    assert sent == [(0, 3, b"abc")]
    assert not gathered


def test_enough_of_them_go_at_once():
    sent, gathered = added(*(copy(position) for position in range(MAX_GATHERED_TOKENS)))
    assert [(position, count) for position, count, _ in sent] == [(0, MAX_GATHERED_TOKENS)]
    assert not gathered


def test_a_step_that_does_not_follow_sends_off_what_waits():
    for other in (copy(5), copy(1, epoch=2)):
        sent, _ = added(copy(0), other)
        assert sent == [(0, 1, b"a")]


def test_prefill_goes_at_once_and_after_what_waits():
    sent, _ = added(copy(0), copy(1, 3))
    assert sent == [(0, 1, b"a"), (1, 3, b"bcd")]


def test_who_does_not_want_to_wait_need_not():
    sent, gathered = added(copy(0), copy(1), gathers=False)
    assert sent == [(0, 1, b"a"), (1, 1, b"b")]
    assert not gathered


def test_sessions_are_kept_apart_and_one_that_is_over_is_forgotten():
    sent, gathered = added(copy(0), copy(1, session=TWO))
    gathered.drop(ONE)
    gathered.flush()
    assert sent == [(1, 1, b"b")]
