"""What a newcomer is told."""

from shared.plan import PlanSettings, planned
from tests.shared.test_placement import ANN, BOB, CYD, DEE, NUM_BLOCKS, view, worker


def settings(**changes: object) -> PlanSettings:
    return PlanSettings(**{"fits": 8, **changes})


def test_only_the_span_is_printed_unless_more_is_asked_for():
    seen = view(worker(ANN, "0:8"), worker(BOB, "16:24"))
    assert planned(seen, NUM_BLOCKS, settings()) == "8:16"


def test_a_hole_is_the_reason_that_is_given():
    told = planned(view(worker(ANN, "0:8"), worker(BOB, "16:24")), 24, settings(explain=True))
    assert "takes 8:16:\n  nobody hosts 8:16;\n  the swarm goes from 0.0 to 12.5" in told


def test_slowness_is_the_reason_where_all_is_hosted_and_other_rules_are_judged_alike():
    seen = view(worker(ANN, "0:12", speed=50), worker(BOB, "12:24", speed=100))
    told = planned(seen, 24, settings(explain=True, speed=25.0))
    assert "blocks there get least, 4.2 tokens/s" in told
    assert "Petals would take 0:8, which makes 6.2" in told
    assert "Parallax would take 0:8" in told


def test_an_empty_swarm_has_an_explanation_too():
    told = planned({}, 24, settings(explain=True))
    assert "nobody hosts anything yet" in told
    assert "nobody has a reason to move" in told


def test_moves_that_are_due_are_named():
    seen = view(
        *(worker(ANN, "0:8"), worker(BOB, "0:8"), worker(CYD, "8:16")),
        worker(DEE, "16:24", leaving=True),
    )
    assert "ann from 0:8 to 16:24" in planned(seen, 24, settings(explain=True))
