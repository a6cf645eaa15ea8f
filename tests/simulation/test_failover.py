"""A generation over unreliable workers gives the tokens of an undisturbed one, whatever happens."""

from dataclasses import replace

import pytest

from tests.simulation.line import PROMPT, Faults, Line
from tests.simulation.scenarios import READ, SCENARIOS, SCORES, UNDISTURBED, all_faults, tally

RUNS = 200


def test_the_undisturbed_run_is_reproducible():
    assert len(UNDISTURBED) == 12
    assert Line(1, Faults()).run() == UNDISTURBED
    assert Line(1, Faults(scores=True)).run() == UNDISTURBED
    assert len(SCORES) == len(PROMPT) - 1
    assert [len(rows) for rows in READ.values()] == [8 * 9] * 4


@pytest.mark.parametrize(("name", "faults"), all_faults(), ids=[name for name, _ in all_faults()])
def test_no_token_score_or_state_is_ever_wrong_or_lost_and_no_page_leaks(name: str, faults: Faults):
    done = tally(faults, range(RUNS))
    assert (done.wrong, done.leaks, done.stuck) == (0, 0, 0), f"seed {done.first_bad_seed}"
    assert done.faults > RUNS  # they did happen
    if name.startswith("kill"):  # workers that forget nothing are never sent a step too early
        assert done.gap_refusals == 0


def test_checkpoints_make_recovery_cheaper():
    faults = SCENARIOS["kill"]
    with_them = tally(faults, range(RUNS))
    without = tally(replace(faults, lost_checkpoints=1.0), range(RUNS))
    assert with_them.values < 0.9 * without.values


def test_workers_that_leave_are_replaced_ahead_of_it():
    assert tally(SCENARIOS["leave"], range(RUNS)).moves > RUNS


def test_standbys_save_the_rebuilding():
    def rebuilt(faults: Faults) -> int:
        lines = [Line(seed, faults) for seed in range(RUNS)]
        for line in lines:
            line.run()
        return sum(line.num_refilled for line in lines)

    plain = replace(SCENARIOS["standby"], standby=False)
    assert rebuilt(SCENARIOS["standby"]) < 0.5 * rebuilt(plain)
