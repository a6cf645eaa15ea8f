"""A gateway that has less than its share gets it from those that have more."""

from shared.swarm import PeerId
from worker.shares import Shares

ANN, BOB, EVE, MALLORY = (PeerId(name) for name in ("ann", "bob", "eve", "mallory"))


def address_of(gateway: PeerId) -> str:
    return {EVE: "evil", MALLORY: "evil"}.get(gateway, gateway)


def shares(total: int, **held: int) -> Shares:
    return Shares(total, {PeerId(name): count for name, count in held.items()}, address_of)


def test_one_that_is_alone_may_have_everything():
    assert shares(10, ann=9).allow(ANN, 1)
    assert shares(10).allow(ANN, 10)


def test_a_newcomer_may_have_its_even_share_and_no_more():
    assert shares(10, ann=10).allow(BOB, 5)
    assert not shares(10, ann=10).allow(BOB, 6)
    assert not shares(10, ann=5, bob=5).allow(ANN, 1)


def test_whoever_has_more_than_its_share_is_to_give_back():
    assert shares(10, ann=10).debtor(BOB) == ANN
    assert shares(12, ann=7, bob=3).debtor(EVE) == ANN
    assert shares(10, ann=5, bob=5).debtor(BOB) is None


def test_many_names_at_one_address_gain_nothing():
    taken = shares(12, eve=6, mallory=6)
    assert taken.allow(ANN, 6)
    assert not taken.allow(ANN, 7)
    assert taken.debtor(ANN) in (EVE, MALLORY)
    assert not shares(12, ann=6, eve=3, mallory=3).allow(EVE, 1)


def test_of_those_above_their_share_the_heaviest_address_gives_first():
    assert shares(12, ann=5, eve=4, mallory=3).debtor(BOB) == EVE
