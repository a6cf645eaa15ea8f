"""Page keys tell texts apart by every token, by their salt, and by what comes before."""

from gateway.prefixes import KnownPrefixes, page_keys
from shared.routing import Kept
from shared.swarm import Hop, PeerId, Span
from shared.wire.messages import PREFIX_PAGE_TOKENS

PAGE = PREFIX_PAGE_TOKENS
TEXT = list(range(3 * PAGE))
ANN, BOB = Hop(PeerId("ann"), Span(0, 4)), Hop(PeerId("bob"), Span(4, 8))


def test_only_whole_pages_have_keys():
    assert len(page_keys(b"salt", TEXT[: PAGE - 1])) == 0
    assert len(page_keys(b"salt", TEXT[: 2 * PAGE + 1])) == 2


def test_texts_that_begin_alike_share_keys_until_they_differ():
    other = [*TEXT[:PAGE], 7, *TEXT[PAGE + 1 :]]
    keys, others = page_keys(b"salt", TEXT), page_keys(b"salt", other)
    assert keys[0] == others[0]
    assert keys[1] != others[1]
    assert keys[2] != others[2]  # the tokens are the same, what comes before is not


def test_two_salts_share_nothing():
    assert not set(page_keys(b"one", TEXT)) & set(page_keys(b"two", TEXT))


def test_hops_are_told_by_how_much_of_a_text_they_kept():
    keys = page_keys(b"salt", TEXT)
    known = KnownPrefixes()
    known.remember((ANN, BOB), keys[:1])
    known.remember((ANN,), keys)
    assert known.kept(keys) == [Kept({ANN}, len(keys) * PAGE), Kept({ANN, BOB}, PAGE)]
    assert known.kept(keys[:1]) == [Kept({ANN, BOB}, PAGE)]
    assert known.kept(()) == []


def test_a_prefix_is_reusable_where_every_hop_kept_it():
    known = KnownPrefixes()
    keys = page_keys(b"salt", TEXT)
    known.remember((ANN, BOB), keys[:2])
    known.remember((ANN,), keys)
    assert known.reusable((ANN, BOB), keys) == 2 * PAGE
    assert known.reusable((ANN,), keys) == 3 * PAGE
    assert known.reusable((ANN, Hop(PeerId("cyd"), Span(4, 8))), keys) == 0


def test_a_hop_that_lost_its_pages_is_not_asked_again():
    known = KnownPrefixes()
    keys = page_keys(b"salt", TEXT)
    known.remember((ANN, BOB), keys)
    known.forget(BOB, keys[1:])
    assert known.reusable((ANN, BOB), keys) == PAGE


def test_what_is_known_is_bounded_the_oldest_going_first():
    known = KnownPrefixes(most=3)
    old, new = page_keys(b"old", TEXT), page_keys(b"new", TEXT)
    known.remember((ANN,), old)
    known.remember((ANN,), new)
    assert known.reusable((ANN,), old) == 0
    assert known.reusable((ANN,), new) == 3 * PAGE
