"""Whom a generation avoids, for how long, and whose word it takes."""

from gateway.blame import FORGIVE_SECONDS, Blame
from shared.swarm import PeerId

ANN, BOB, CYD = (PeerId(name) for name in ("ann", "bob", "cyd"))


def test_a_worker_that_failed_is_avoided_for_a_while():
    blame = Blame()
    blame.avoid(ANN, "no_pages", now=10)
    assert blame.avoided(10 + FORGIVE_SECONDS - 0.1) == {ANN}
    assert blame.avoided(10 + FORGIVE_SECONDS) == set()


def test_what_a_worker_cannot_do_it_will_not_learn():
    blame = Blame()
    blame.avoid(ANN, "no_grammars", now=10)
    assert blame.avoided(1e9) == {ANN}


def test_an_accuser_is_believed_when_that_is_likely():
    assert Blame().between(ANN, BOB, is_likely=True) == BOB


def test_else_the_first_accuser_of_a_worker_is_blamed_itself_and_the_second_believed():
    blame = Blame()
    assert blame.between(ANN, BOB, is_likely=False) == ANN
    assert blame.between(CYD, BOB, is_likely=False) == BOB
