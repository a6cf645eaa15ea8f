"""Swarms that place themselves, over simulated hours; `make placement` runs far more of them."""

import random

import pytest

from tests.simulation.placement import SETTLE_SECONDS, Machine, RawSpeed, Town
from tests.simulation.rival_towns import ParallaxTown, PetalsTown
from tests.simulation.stories import LOSSES, machines, quantile, rival_story, story
from worker.steady import SteadySpeed


@pytest.mark.parametrize(
    ("kind", "count", "losses"),
    [
        ("even", 60, ("20 %", "spite")),
        pytest.param("wild", 300, LOSSES, marks=pytest.mark.slow),
        pytest.param("paper", 1000, LOSSES, marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(3600)
def test_a_swarm_stays_near_the_bound_through_joins_and_losses(
    kind: str, count: int, losses: tuple[str, ...]
):
    told = story(1, kind, count, losses)
    assert quantile(told.after_joins + told.after_losses, 0.5) >= 0.95
    assert quantile(told.after_joins + told.after_losses, 0.05) >= 0.90
    assert told.num_moves <= 1.5 * told.num_lost
    assert told.num_restless == told.holes_made == 0


def test_workers_that_come_at_once_cover_the_model_without_a_word_of_command():
    town = Town(24, seed=5)
    for _ in range(8):
        town.join(Machine(fits=6, speed=100.0))
    town.run(600)
    assert town.is_covered
    assert town.efficiency > 0.95
    assert town.story.moves == []


def test_a_tight_swarm_covers_itself_again_where_every_worker_is_needed_somewhere():
    town = Town(70, seed=3)
    for fits in (9, 9, 9, 9, 9, 9, 5, 5, 4, 4, 4, 4, 4, 4):
        town.join(Machine(fits, 100.0))
        town.run(30)
    town.run(600)
    town.lose(sorted(town.alive)[:1])
    town.run(1200)
    assert town.is_covered


@pytest.mark.parametrize("seed", range(3))
def test_nobody_makes_a_hole_by_moving_as_long_as_views_are_no_older_than_what_they_wait(seed: int):
    town = Town(24, seed, max_lag=SETTLE_SECONDS - 1)
    for index in range(12):
        town.join(Machine(fits=6, speed=50.0 + 10 * index))
    town.run(600)
    for _ in range(3):
        town.lose(sorted(town.alive)[:2])
        town.run(300)
        assert town.story.holes_made == 0


def moves_in_two_hours(seed: int, speed_class: type[SteadySpeed]) -> int:
    """Of 30 workers that measure anywhere from half their speed to all of it."""
    town, chance = Town(80, seed, noise=2.0, speed_class=speed_class), random.Random(seed)
    for machine in machines("even", 30, chance):
        town.join(machine)
        town.run(15)
    town.run(2 * 3600)
    assert town.efficiency > 0.85
    return len(town.story.moves)


def test_measurements_that_differ_twofold_move_hardly_anybody():
    assert sum(moves_in_two_hours(seed, SteadySpeed) for seed in range(4)) <= 8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_measurements_told_as_they_are_would_move_more():
    steady, raw = (
        sum(moves_in_two_hours(seed, speed_class) for seed in range(4))
        for speed_class in (SteadySpeed, RawSpeed)
    )
    assert raw > steady


def test_other_rules_are_judged_by_the_same_measure():
    petals = rival_story(PetalsTown, 1, "even", 20)
    parallax = rival_story(ParallaxTown, 1, "even", 20)
    assert 0 < quantile(petals.after_losses, 0.5) < 0.95
    assert 0 <= quantile(parallax.after_losses, 0.5) < 0.95
