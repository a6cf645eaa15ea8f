"""A generation over unreliable workers gives the tokens of an undisturbed one, whatever happens."""

import pytest

from tests.simulation.line import Faults, Line

UNDISTURBED = Line(0, Faults()).run()
RUNS = 1200


def test_the_undisturbed_run_is_reproducible():
    assert len(UNDISTURBED) == 12
    assert Line(1, Faults()).run() == UNDISTURBED


@pytest.mark.parametrize("lost_checkpoints", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "faults",
    [
        {"kill": 0.05},
        {"forget": 0.05},
        {"refuse": 0.05},
        {"kill": 0.03, "forget": 0.02, "refuse": 0.02},
        {"kill": 0.03, "forget": 0.02, "refuse": 0.02, "guess": 0.7},
    ],
    ids=["kill", "forget", "refuse", "everything", "everything and guesses"],
)
def test_no_token_is_ever_wrong_or_lost(faults: dict[str, float], lost_checkpoints: float):
    num_faults = 0
    for seed in range(RUNS):
        line = Line(seed, Faults(**faults, lost_checkpoints=lost_checkpoints), truth=UNDISTURBED)
        assert line.run() == UNDISTURBED, f"seed {seed}"
        num_faults += line.num_faults
        if set(faults) == {"kill"}:  # workers that forget nothing are never sent a step too early
            assert line.num_gap_refusals == 0, f"seed {seed}"
    assert num_faults > RUNS  # the faults did happen


def test_checkpoints_make_recovery_cheaper():
    def values_computed(lost_checkpoints: float) -> int:
        lines = [Line(s, Faults(kill=0.05, lost_checkpoints=lost_checkpoints)) for s in range(300)]
        for line in lines:
            line.run()
        return sum(line.num_values for line in lines)

    assert values_computed(0.0) < 0.8 * values_computed(1.0)
