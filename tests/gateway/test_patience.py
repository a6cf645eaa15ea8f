"""Silence and trouble have their limits, and only progress resets them."""

import pytest

from gateway.patience import LEAST_SLOW_SECONDS, MAX_COPY_SECONDS, Patience

STEP, RECOVERY = 5.0, 60.0


def patience() -> Patience:
    return Patience(STEP, RECOVERY, now=0.0)


def test_a_step_may_take_its_time_and_no_longer():
    p = patience()
    assert p.left(3.0, has_gaps=False) == 2.0
    assert p.left(6.0, has_gaps=False) == 0.0
    p.progressed(6.0)
    assert p.left(6.0, has_gaps=False) == STEP


def test_with_a_gap_only_trouble_counts():
    p = patience()
    p.lost(10.0)
    assert p.left(20.0, has_gaps=True) == 50.0


def test_rerouting_does_not_put_off_the_end_of_trouble():
    p = patience()
    p.lost(0.0)
    for now in range(0, 60, 4):
        p.rerouted(float(now))
        p.lost(float(now))
    assert not p.is_over(59.0)
    assert p.is_over(60.0)


def test_a_copy_is_waited_for_as_long_as_a_hop_takes_and_a_tenth_of_a_second_at_most():
    p = patience()
    for now in (0.0, 0.06):
        p.answered(now)
    assert p.copy_left(10.0, num_hops=3) == 0.0
    p.lost(10.0)
    assert p.copy_left(10.005, num_hops=3) == pytest.approx(0.015)
    assert p.copy_left(10.03, num_hops=3) == 0.0
    slow = patience()
    for now in (0.0, 9.0):
        slow.answered(now)
    slow.lost(10.0)
    assert slow.copy_left(10.0, num_hops=3) == pytest.approx(MAX_COPY_SECONDS)


def test_progress_ends_trouble():
    p = patience()
    p.lost(0.0)
    p.progressed(50.0)
    assert not p.is_over(1000.0)


def test_newcomers_get_a_step_of_their_own_but_not_beyond_the_end_of_trouble():
    p = patience()
    p.lost(0.0)
    p.rerouted(57.0)
    assert p.left(57.0, has_gaps=False) == 3.0


def usual(seconds: float, now: float = 100.0) -> Patience:
    """Two answers have come, `seconds` apart, the last of them at `now`."""
    patience = Patience(60, 60, now)
    for at in (now - seconds, now):
        patience.answered(at)
        patience.progressed(at)
    return patience


def test_a_step_is_slow_when_it_takes_many_times_the_usual():
    assert usual(0.5).left(100, has_gaps=False, busy_seconds=0) == pytest.approx(5)


def test_a_quick_step_is_not_slow_before_a_moment_has_passed():
    assert usual(0.01).left(100, has_gaps=False, busy_seconds=0) == LEAST_SLOW_SECONDS


def test_workers_may_be_busy_with_others():
    assert usual(0.01).left(100, has_gaps=False, busy_seconds=4) == pytest.approx(8.1)


def test_no_step_may_take_longer_than_the_operator_allows():
    assert usual(50).left(100, has_gaps=False, busy_seconds=0) == 60


def test_a_step_of_which_nothing_is_known_may_take_as_long():
    assert usual(0.5).left(100, has_gaps=False) == 60
    assert Patience(60, 60, 100).left(100, has_gaps=False, busy_seconds=0) == 60


def test_a_slow_worker_without_others_is_waited_for_until_it_counts_as_silent():
    patience = usual(0.5)
    patience.no_others()
    assert patience.left(106, has_gaps=False, busy_seconds=0) == 54
    assert not patience.is_silent(159)
    assert patience.is_silent(160)


@pytest.mark.parametrize(("step", "recovery"), [(60, 60), (1, 60), (60, 1)])
def test_right_after_progress_nothing_is_due_for_the_least_time(step: float, recovery: float):
    patience = Patience(step, recovery, 100)
    assert patience.least_seconds == min(step, recovery, LEAST_SLOW_SECONDS)
    assert patience.left(100, has_gaps=False, busy_seconds=0) >= patience.least_seconds
    patience.lost(100)
    assert patience.left(100, has_gaps=True) >= patience.least_seconds
