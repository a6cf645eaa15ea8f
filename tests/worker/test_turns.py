"""Gateways take turns by what they had computed, not by how much they ask for."""

from dataclasses import dataclass

from shared.swarm import PeerId
from worker.turns import Turns

ANN, EVE = PeerId("ann"), PeerId("eve")


@dataclass(frozen=True)
class Item:
    gateway: PeerId
    count: int = 1


def served(turns: Turns, waiting: list[Item]) -> PeerId:
    """Whose step runs when one runs at a time."""
    first = turns.ordered(waiting)[0]
    turns.ran([first])
    waiting.remove(first)
    return first.gateway


def test_one_gateway_s_steps_keep_their_order():
    one, two = Item(ANN, 5), Item(ANN, 3)
    assert Turns().ordered([one, two]) == [one, two]
    assert Turns().ordered([]) == []


def test_one_that_asks_for_much_waits_no_less_than_the_other():
    turns = Turns()
    waiting = [Item(EVE, 10) for _ in range(50)] + [Item(ANN, 10) for _ in range(5)]
    assert [served(turns, waiting) for _ in range(10)].count(ANN) == 5


def test_long_steps_count_for_more():
    turns = Turns()
    waiting = [Item(EVE, 100) for _ in range(50)] + [Item(ANN, 10) for _ in range(20)]
    assert [served(turns, waiting) for _ in range(11)].count(ANN) == 10


def test_nobody_saves_turns_up():
    turns = Turns()
    waiting = [Item(EVE, 10) for _ in range(100)]
    for _ in range(50):
        served(turns, waiting)
    waiting += [Item(ANN, 10) for _ in range(50)]
    assert [served(turns, waiting) for _ in range(10)].count(ANN) in (5, 6)


def test_one_whose_step_is_under_way_keeps_what_it_owes():
    turns = Turns()
    turns.ran(turns.ordered([Item(EVE, 100), Item(ANN, 1)]))
    turns.ordered([Item(ANN, 1)])
    assert turns.ordered([Item(EVE), Item(ANN)])[0].gateway == ANN
