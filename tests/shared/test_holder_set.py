"""Holders are looked for again on routine, sooner when few, and soon when they fail."""

from shared.discovery.holder_set import Cursor, HolderSet

FULL = ["ann", "bob", "cyd", "dee"]


def found(holders: list[str], *, num_members: int = 50) -> HolderSet[str]:
    h = HolderSet[str]()
    assert h.is_due(0.0, num_members)
    h.found(holders, 0.0, num_members, jitter=1.0)
    return h


def test_a_full_set_in_a_large_swarm_lasts_a_minute():
    h = found(FULL)
    assert not h.is_due(59.0, 50)
    assert not h.is_due(59.0, 51)
    assert h.is_due(60.0, 50)


def test_a_small_swarm_is_looked_at_more_often():
    h = found(FULL, num_members=4)
    assert not h.is_due(9.0, 4)
    assert h.is_due(10.0, 4)


def test_a_newcomer_to_a_small_swarm_may_move_the_topic():
    h = found(FULL, num_members=4)
    assert not h.is_due(0.5, 5)
    assert h.is_due(1.0, 5)


def test_few_holders_are_soon_complemented():
    assert found(["ann"]).is_due(4.0, 50)


def test_failing_holders_are_replaced_ever_more_patiently():
    h = found(FULL)
    h.asked(0.0, num_failed=1)
    assert h.is_due(2.0, 50)
    h.found(FULL, 2.0, 50, jitter=1.0)
    h.asked(2.0, num_failed=1)
    assert not h.is_due(5.0, 50)
    assert h.is_due(6.0, 50)


def test_a_holder_that_leaves_the_set_is_read_from_the_start_when_it_comes_back():
    h = found(FULL)
    h.cursors = {"ann": Cursor(b"a", 1), "bob": Cursor(b"b", 2)}
    h.found(["bob"], 60.0, 50, jitter=1.0)
    assert h.cursors == {"bob": Cursor(b"b", 2)}


def test_a_changed_swarm_is_looked_at_at_once():
    h = found(FULL)
    h.forget()
    assert h.is_due(0.1, 50)
