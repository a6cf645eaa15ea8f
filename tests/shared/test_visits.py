"""One peer may not take more than its share of a holder."""

import pytest

from shared.discovery import visits
from shared.discovery.visits import Visits


def test_a_peer_has_few_streams():
    v = Visits()
    assert [v.enter("ann") for _ in range(5)] == [True, True, True, True, False]
    assert v.enter("bob")
    v.leave("ann")
    assert v.enter("ann")


def test_all_peers_together_have_a_bounded_number_of_streams():
    v = Visits()
    assert all(v.enter(str(n)) for n in range(visits.MAX_STREAMS))
    assert not v.enter("late")
    v.leave("0")
    assert v.enter("late")


def test_a_burst_is_free_and_then_there_is_a_pace():
    v = Visits()
    v.enter("ann")
    assert sum(v.pause_seconds("ann", 0.0) for _ in range(40)) == pytest.approx(0.0)
    assert v.pause_seconds("ann", 0.0) == pytest.approx(0.05)
    assert v.pause_seconds("ann", 0.0) == pytest.approx(0.1)
    assert v.pause_seconds("ann", 10.0) == 0.0
