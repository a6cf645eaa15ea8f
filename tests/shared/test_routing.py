"""Which workers a session runs through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import NoRoute
from shared.routing import plan_route
from shared.swarm import Announcement, Hop, PeerId, Route, Span, tiles, uncovered
from tests.shared.announcing import announcement

spans = st.tuples(st.integers(0, 10), st.integers(1, 12)).map(
    lambda p: Span(p[0], min(12, p[0] + p[1]))
)
loads = st.dictionaries(st.sampled_from("abcdef").map(PeerId), st.integers(0, 5))


def view(text: str, **changes: object) -> dict[PeerId, Announcement]:
    """E.g. "ann 0:8, bob 8:16"."""
    workers = [part.split() for part in text.split(", ")]
    return {
        PeerId(name): announcement(worker=PeerId(name), span=Span.parse(span), **changes)
        for name, span in workers
    }


def route(text: str) -> Route:
    return tuple(
        Hop(PeerId(name), Span.parse(span)) for name, span in map(str.split, text.split(", "))
    )


def test_the_fewest_hops_win():
    workers = view("ann 0:4, bob 4:8, cyd 0:8")
    assert plan_route(workers, Span(0, 8)) == route("cyd 0:8")


def test_spans_may_be_used_in_part():
    workers = view("ann 0:5, bob 3:8")
    assert plan_route(workers, Span(0, 8)) == route("ann 0:5, bob 5:8")
    assert plan_route(workers, Span(4, 5)) == route("ann 4:5")


def test_of_equal_workers_the_less_loaded_is_taken():
    workers = view("ann 0:8, bob 0:8")
    assert plan_route(workers, Span(0, 8), load={PeerId("ann"): 1}) == route("bob 0:8")
    assert plan_route(workers, Span(0, 8), load={PeerId("bob"): 1}) == route("ann 0:8")


def test_a_crowded_worker_is_worth_an_extra_hop():
    workers = view("ann 0:8, bob 0:4, cyd 4:8")
    assert plan_route(workers, Span(0, 8), load={PeerId("ann"): 9}) == route("ann 0:8")
    assert plan_route(workers, Span(0, 8), load={PeerId("ann"): 11}) == route("bob 0:4, cyd 4:8")


def test_the_avoided_and_the_leaving_are_left_out():
    workers = view("ann 0:8, bob 0:8") | view("abe 0:8", leaving=True)
    assert plan_route(workers, Span(0, 8), avoid={PeerId("ann")}) == route("bob 0:8")


def test_without_a_route_the_uncovered_blocks_are_named():
    workers = view("ann 0:2, bob 3:6")
    with pytest.raises(NoRoute, match="2:3, 6:8"):
        plan_route(workers, Span(0, 8))
    with pytest.raises(NoRoute, match="0:8"):
        plan_route({}, Span(0, 8))


def test_the_order_of_the_view_does_not_matter():
    workers = view("ann 0:8, bob 0:8, cyd 0:8")
    backwards = dict(reversed(workers.items()))
    assert plan_route(workers, Span(0, 8)) == plan_route(backwards, Span(0, 8))


@given(st.lists(spans, max_size=6), spans, loads)
def test_there_is_a_tiling_route_exactly_when_every_block_is_hosted(
    hosted: list[Span], span: Span, load: dict[PeerId, int]
):
    names = [PeerId(name) for name in "abcdef"]
    workers = {n: announcement(worker=n, span=s) for n, s in zip(names, hosted, strict=False)}
    if uncovered(hosted, span):
        with pytest.raises(NoRoute):
            plan_route(workers, span, load=load)
        return
    found = plan_route(workers, span, load=load)
    assert tiles(found, span)
    assert all(workers[hop.worker].span.covers(hop.span) for hop in found)
