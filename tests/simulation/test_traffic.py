"""Routes that know of load, delays and batches beat those that do not, under traffic."""

import pytest

from tests.simulation.traffic import CHOICES, Scale, Swarm, Traffic, compare

SMALL = Scale(workers=24, blocks=32, sessions=60, new_tokens=24, prompt_tokens=64)


def test_every_session_gets_all_its_tokens_however_its_route_was_chosen():
    for choose in CHOICES.values():
        traffic = Traffic(Swarm(SMALL, seed=3), choose, rate=2.0, seed=3)
        times = traffic.run()
        assert len(times) == SMALL.sessions
        assert min(times) > 0
        assert all(session.tokens_left == 0 for session in traffic.sessions)
        assert all(machine.sessions == 0 for machine in traffic._machines.values())


@pytest.mark.parametrize(("rate", "most"), [(0.5, 0.9), (3.0, 0.7)])
def test_ours_beat_petals_and_the_shortest_queue_and_the_more_so_the_busier_it_is(
    rate: float, most: float
):
    found = compare(SMALL, rate, seeds=(1, 2))
    for other in ("Petals", "shortest queue"):
        for ours, theirs in zip(found["ours"], found[other], strict=True):
            assert ours < most * theirs, found
