"""What forwards say about a worker's speed."""

import pytest

from shared.pace import Pace
from worker.pacer import BUSY_SECONDS, Pacer

PACE = Pace((0.010, 0.024, 0.072), prefill=0.001)


def ran(pacer: Pacer, counts: list[int], seconds: float, *, times: int = 200) -> Pace:
    for number in range(times):
        pacer.ran(counts, 2, started=float(number), seconds=seconds)
    return pacer.pace


def test_a_machine_that_slows_down_is_found_out_where_it_was_seen_to():
    pace = ran(Pacer(PACE), [1], 2 * 0.020)
    assert pace.decode[0] == pytest.approx(0.020, rel=0.01)
    assert pace.decode[1:] == PACE.decode[1:]


def test_a_batch_between_two_measurements_moves_both():
    pace = ran(Pacer(PACE), [1] * 20, 2 * 2 * PACE.decode_seconds(20))
    assert pace.decode_seconds(20) == pytest.approx(2 * PACE.decode_seconds(20), rel=0.02)
    assert pace.decode[0] == PACE.decode[0]


def test_a_token_of_a_prompt_is_learnt_from_prompts_alone():
    assert ran(Pacer(PACE), [100, 50], 2 * 150 * 0.004).prefill == pytest.approx(0.004, rel=0.01)
    assert ran(Pacer(PACE), [100, 1], 99.0) == PACE
    assert ran(Pacer(PACE), [3], 99.0) == PACE


def test_a_forward_that_only_filled_caches_says_nothing_but_that_the_worker_was_busy():
    pacer = Pacer(PACE)
    pacer.ran([1], 1, started=0.0, seconds=99.0, is_whole=False)
    assert pacer.pace == PACE
    assert pacer.busy(99.0) == pytest.approx(1.0)


def test_without_a_measurement_at_the_start_the_first_forwards_are_believed():
    pacer = Pacer()
    assert ran(pacer, [1], 0.020, times=1) == Pace((0.010, 0.010, 0.010))
    assert ran(pacer, [40], 0.040, times=1).prefill == pytest.approx(0.0005)


def test_a_worker_is_as_busy_as_the_share_of_its_time_it_computes():
    pacer = Pacer(PACE)
    assert pacer.busy(5.0) == 0.0
    for number in range(400):
        pacer.ran([1], 1, started=number * 0.1, seconds=0.025)
    assert pacer.busy(40.0) == pytest.approx(0.25, abs=0.01)
    assert pacer.busy(40.0 + 5 * BUSY_SECONDS) < 0.01
    pacer.ran([1], 1, started=100.0, seconds=1000.0)
    assert pacer.busy(1100.0) == pytest.approx(1.0)
