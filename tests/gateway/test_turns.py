"""Which generation runs next: fair between callers, bounded for each model and each caller."""

import random
from collections import Counter

import pytest

from gateway.turns import Full, Turn, Turns


def asked(turns: Turns, *callers: str, model: str = "m", most: int | None = None) -> list[Turn]:
    made = [Turn(caller, model, most) for caller in callers]
    for turn in made:
        turns.wait(turn)
    return made


def started(turns: Turns) -> list[Turn]:
    run: list[Turn] = []
    while turn := turns.next():
        run.append(turn)
    return run


def names(turns: list[Turn]) -> str:
    return "".join(turn.caller for turn in turns)


def test_of_one_caller_first_come_first_served():
    turns = Turns(max_running=1, max_waiting=9)
    first, second = asked(turns, "a", "a")
    assert started(turns) == [first]
    turns.end(first)
    assert started(turns) == [second]


def test_a_caller_with_one_request_does_not_wait_behind_another_s_hundred():
    turns = Turns(max_running=2, max_waiting=200)
    asked(turns, *"a" * 100)
    running = started(turns)
    asked(turns, "b")
    turns.end(running[0])
    assert names(started(turns)) == "b"


def test_places_are_shared_evenly_between_callers():
    turns = Turns(max_running=6, max_waiting=99)
    asked(turns, *"a" * 9, *"b" * 9, *"c" * 9)
    assert Counter(names(started(turns))) == {"a": 2, "b": 2, "c": 2}


def test_a_share_that_is_not_wanted_is_others():
    turns = Turns(max_running=6, max_waiting=99)
    asked(turns, *"a" * 9, "b")
    assert Counter(names(started(turns))) == {"a": 5, "b": 1}


def test_among_equals_the_one_served_longest_ago_comes_first():
    turns = Turns(max_running=1, max_waiting=99)
    asked(turns, *"aaabbbcc")
    order = ""
    while run := started(turns):
        order += names(run)
        turns.end(run[0])
    assert order == "abcabcab"


def test_a_caller_at_its_own_limit_is_passed_over_and_comes_again():
    turns = Turns(max_running=9, max_waiting=9)
    asked(turns, "a", "a", "a", most=2)
    asked(turns, "b")
    running = started(turns)
    assert sorted(names(running)) == ["a", "a", "b"]
    turns.end(next(turn for turn in running if turn.caller == "a"))
    assert names(started(turns)) == "a"


def test_each_model_has_a_queue_of_its_own():
    turns = Turns(max_running=1, max_waiting=1)
    asked(turns, "a")
    started(turns)
    asked(turns, "a", model="m")
    assert turns.why_full(Turn("b", "m")) is Full.MODEL
    assert turns.why_full(Turn("b", "n")) is None


def test_each_caller_has_a_bound_of_its_own():
    turns = Turns(max_running=1, max_waiting=9)
    asked(turns, "a", "a")
    started(turns)
    assert turns.why_full(Turn("a", "m"), max_waiting=1) is Full.CALLER
    assert turns.why_full(Turn("b", "m"), max_waiting=1) is None


def test_who_can_run_at_once_needs_no_queue():
    turns = Turns(max_running=1, max_waiting=0)
    assert turns.why_full(Turn("a", "m"), max_waiting=0) is None


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_or_counted_twice_in_any_order(seed: int):
    chance = random.Random(seed)
    turns = Turns(max_running=3, max_waiting=9)
    alive: list[Turn] = []
    for _ in range(300):
        if alive and chance.random() < 0.5:
            turns.end(alive.pop(chance.randrange(len(alive))))
        else:
            alive += asked(turns, chance.choice("abc"), most=chance.choice([1, 2, None]))
        started(turns)
        running = sum(turn.is_running for turn in alive)
        assert (turns.num_running, turns.num_waiting) == (running, len(alive) - running)
        assert running <= 3
    for turn in alive:
        turns.end(turn)
    assert (turns.num_running, turns.num_waiting) == (0, 0)
    assert not turns._running
    assert not turns._of_model
