"""Spans, and how hops tile them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.swarm import MAX_BLOCKS, Hop, PeerId, Span, tiles, uncovered
from tests.shared.announcing import announcement

spans = st.tuples(st.integers(0, 12), st.integers(1, 6)).map(lambda p: Span(p[0], p[0] + p[1]))


def hops(*texts: str) -> list[Hop]:
    return [Hop(PeerId("ann"), Span.parse(text)) for text in texts]


def test_a_span_knows_its_blocks():
    span = Span(2, 6)
    assert (len(span), str(span)) == (4, "2:6")
    assert span.covers(Span(2, 6))
    assert span.covers(Span(3, 4))
    assert not span.covers(Span(1, 3))
    assert span.overlaps(Span(5, 9))
    assert not span.overlaps(Span(6, 9))


@pytest.mark.parametrize(("start", "end"), [(3, 3), (4, 3)])
def test_no_span_is_empty(start: int, end: int):
    with pytest.raises(ValueError, match="no blocks"):
        Span(start, end)


def test_a_span_reads_as_it_is_written():
    assert Span.parse("0:8") == Span(0, 8)
    assert Span.parse(str(Span(3, 7))) == Span(3, 7)


@pytest.mark.parametrize(
    "text", ["", "8", ":", "0:", ":8", "a:b", "-1:3", "8:8", "9:8", f"0:{MAX_BLOCKS + 1}", "0:1:2"]
)
def test_what_is_no_span_is_the_operator_s_mistake(text: str):
    with pytest.raises(ConfigError, match="START"):
        Span.parse(text)


def test_hops_tile_a_span_when_each_begins_where_the_one_before_ends():
    assert tiles(hops("0:4", "4:8"), Span(0, 8))
    assert tiles(hops("2:3"), Span(2, 3))


@pytest.mark.parametrize(
    "parts", [[], ["0:4"], ["4:8"], ["0:5", "4:8"], ["0:3", "4:8"], ["4:8", "0:4"], ["0:9"]]
)
def test_gaps_overlaps_and_disorder_do_not_tile(parts: list[str]):
    assert not tiles(hops(*parts), Span(0, 8))


@given(st.lists(spans, max_size=5), spans)
def test_uncovered_names_exactly_the_blocks_that_nobody_hosts(hosted: list[Span], span: Span):
    gaps = uncovered(hosted, span)
    named = [block for gap in gaps for block in range(gap.start, gap.end)]
    everywhere = {block for part in hosted for block in range(part.start, part.end)}
    assert named == [b for b in range(span.start, span.end) if b not in everywhere]
    assert all(one.end < other.start for one, other in pairwise(gaps))


def test_an_announcement_is_believed_until_its_lease_is_over():
    assert announcement(issued_at=100.0, lease_seconds=12.0).expires_at == 112.0


def test_a_topic_names_swarm_model_and_revision():
    assert announcement().topic == "test/acme/tiny@abc123"
