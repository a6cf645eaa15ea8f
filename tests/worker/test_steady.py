"""The speed that a worker tells stays as it is while measurements merely differ."""

import random

import pytest

from worker.steady import NUM_REMEMBERED, SteadySpeed


def after(speed: SteadySpeed, measurements: list[float]) -> float:
    for measured in measurements:
        speed.measure(measured)
    return speed.told


@pytest.mark.parametrize("seed", range(20))
def test_measurements_that_differ_twofold_change_what_is_told_once_at_most(seed: int):
    chance = random.Random(seed)
    speed = SteadySpeed(100.0)
    told = {after(speed, [100 * 2 ** -chance.random()]) for _ in range(500)}
    assert len(told) <= 2
    assert 50 <= speed.told <= 100


def test_a_machine_that_stays_slower_is_told_of_after_half_of_what_is_remembered():
    speed = SteadySpeed(100.0)
    assert after(speed, [100.0 + n for n in range(NUM_REMEMBERED)]) == 100.0
    assert after(speed, [40.0 + n for n in range(NUM_REMEMBERED // 2)]) == 100.0
    assert after(speed, [45.0]) == 45.0


def test_a_worker_at_rest_learns_nothing_by_reading_the_same_again():
    assert after(SteadySpeed(100.0), [30.0] * 50) == 100.0


def test_the_first_measurement_is_believed_and_none_at_all_is_not():
    assert after(SteadySpeed(), [0.0]) == 0.0
    assert after(SteadySpeed(), [0.0, 70.0]) == 70.0
