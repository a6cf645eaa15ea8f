"""Kept caches: the longest match, no copies of what another covers, the longest unused go first."""

from shared.swarm import PeerId, Span
from worker.prefixes import Match, Prefixes

SPAN = Span(0, 4)
GATE, EVE = PeerId("gate"), PeerId("eve")


def keys(text: str) -> tuple[bytes, ...]:
    """One key per letter, each standing for all letters up to it."""
    return tuple(text[: end + 1].encode() for end in range(len(text)))


def test_the_cache_that_shares_the_most_pages_is_found():
    kept = Prefixes()
    abc = kept.keep(GATE, SPAN, keys("abc"), pages=3)
    abd = kept.keep(GATE, SPAN, keys("abd"), pages=3)
    assert kept.find(GATE, SPAN, keys("abcx")) == Match(abc, 3 * 64)
    assert kept.find(GATE, SPAN, keys("abd")) == Match(abd, 3 * 64)
    assert kept.find(GATE, SPAN, keys("xyz")) is None


def test_another_span_of_the_same_worker_shares_nothing():
    kept = Prefixes()
    kept.keep(GATE, SPAN, keys("ab"), pages=2)
    assert kept.find(GATE, Span(0, 3), keys("ab")) is None


def test_the_same_text_is_kept_once():
    kept = Prefixes()
    assert kept.keep(GATE, SPAN, keys("ab"), pages=2) is not None
    assert kept.keep(GATE, SPAN, keys("ab"), pages=2) is None
    assert kept.keep(GATE, SPAN, (), pages=2) is None
    assert kept.pages == 2


def test_a_longer_text_replaces_its_own_beginning():
    kept = Prefixes()
    short = kept.keep(GATE, SPAN, keys("ab"), pages=2)
    long = kept.keep(GATE, SPAN, keys("abc"), pages=3)
    assert [gone.key for gone in kept.drop_covered()] == [short]
    assert kept.find(GATE, SPAN, keys("ab")) == Match(long, 2 * 64)
    assert kept.pages == 3


def test_the_longest_unused_goes_first():
    kept = Prefixes()
    kept.keep(GATE, SPAN, keys("a"), pages=2)
    b = kept.keep(GATE, SPAN, keys("b"), pages=2)
    kept.find(GATE, SPAN, keys("a"))
    assert [gone.key for gone in kept.evict(1)] == [b]
    assert kept.pages == 2
    assert len(kept.evict(100)) == 1
    assert kept.find(GATE, SPAN, keys("a")) is None


def test_a_cache_is_found_by_none_but_the_gateway_whose_session_it_was():
    kept = Prefixes()
    assert kept.keep(GATE, SPAN, keys("ab"), pages=2) is not None
    assert kept.find(EVE, SPAN, keys("ab")) is None
    assert kept.keep(EVE, SPAN, keys("ab"), pages=2) is not None
    assert kept.find(GATE, SPAN, keys("ab")) is not None
