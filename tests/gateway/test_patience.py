"""Silence and trouble have their limits, and only progress resets them."""

from gateway.patience import Patience

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
