"""Peers that fail twice are left alone for a growing while, unless everybody fails."""

from shared.discovery.strikes import MAX_PEERS, Strikes
from tests.shared.announcing import Clock


def test_the_second_strike_is_out_for_a_growing_while():
    clock = Clock()
    s = Strikes[str](clock)
    assert not s.failed("bob")
    assert not s.is_out("bob")
    assert s.failed("bob")
    clock.now = 9.9
    assert s.is_out("bob")
    clock.now = 10.0
    assert not s.is_out("bob")
    s.failed("bob")
    clock.now = 29.9
    assert s.is_out("bob")


def test_nobody_is_out_for_more_than_two_minutes():
    clock = Clock()
    s = Strikes[str](clock)
    for _ in range(50):
        s.failed("bob")
    clock.now = 120.0
    assert not s.is_out("bob")


def test_an_answer_wipes_the_slate():
    s = Strikes[str](Clock())
    s.failed("bob")
    s.answered("bob")
    assert not s.failed("bob")


def test_when_many_fail_at_once_it_is_our_fault():
    s = Strikes[str](Clock())
    for _ in range(3):
        assert s.judge(["a", "b", "c", "d"], num_asked=10) == []
    assert s.judge(["a", "b", "c"], num_asked=10) == []
    assert s.judge(["a", "b", "c"], num_asked=10) == ["a", "b", "c"]


def test_memory_is_bounded():
    s = Strikes[int](Clock())
    for peer in range(MAX_PEERS + 1):
        s.failed(peer)
        s.failed(peer)
    assert not s.is_out(0)
    assert s.is_out(MAX_PEERS)
