"""Which workers a session runs through."""

from collections.abc import Iterator
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.costs import Prices
from shared.errors import NoRoute
from shared.pace import Pace
from shared.roster import CHOICES, Roster
from shared.routing import Kept, plan_route
from shared.survey import Load, Needs, Survey
from shared.swarm import Announcement, Hop, PeerId, Route, Span, tiles, uncovered
from shared.trellis import Ends, Trellis
from tests.shared.announcing import announcement

NUM_BLOCKS = 24
ANN, BOB, CYD = map(PeerId, ("ann", "bob", "cyd"))
NAMES = [PeerId(name) for name in "abcde"]

spans = st.tuples(st.integers(0, 10), st.integers(1, 12)).map(
    lambda p: Span(p[0], min(12, p[0] + p[1]))
)
seconds = st.floats(0.001, 0.1)
delays = st.dictionaries(st.sampled_from(NAMES), seconds)


def workers(text: str, **changes: object) -> dict[PeerId, Announcement]:
    """E.g. "ann 0:8, bob 8:16"."""
    return {
        PeerId(name): announcement(worker=PeerId(name), span=Span.parse(span), **changes)
        for name, span in map(str.split, text.split(", "))
    }


def roster(text: str, **changes: object) -> Roster:
    return Roster(workers(text, **changes), NUM_BLOCKS)


def paced(**milliseconds: float) -> Roster:
    """Workers of all blocks by the time of each of these, alone or not."""
    return Roster(
        {
            PeerId(name): announcement(worker=PeerId(name), pace=Pace((ms / 1000,) * 3, ms / 1e4))
            for name, ms in milliseconds.items()
        },
        NUM_BLOCKS,
    )


def route(text: str) -> Route:
    return tuple(
        Hop(PeerId(name), Span.parse(span)) for name, span in map(str.split, text.split(", "))
    )


def test_of_equal_routes_the_one_with_the_fewest_hops_wins():
    assert plan_route(roster("ann 0:4, bob 4:8, cyd 0:8"), Span(0, 8)) == route("cyd 0:8")


def test_spans_may_be_used_in_part():
    fast, slow = Pace((0.01,) * 3), Pace((0.02,) * 3)
    some = Roster(workers("ann 0:5", pace=fast) | workers("bob 3:8", pace=slow), NUM_BLOCKS)
    assert plan_route(some, Span(0, 8)) == route("ann 0:5, bob 5:8")
    assert plan_route(some, Span(4, 5)) == route("ann 4:5")


def test_a_slow_worker_is_left_as_soon_as_a_faster_one_begins():
    slow = workers("ann 0:7", pace=Pace((0.1,) * 3)) | workers("bob 3:8", pace=Pace((0.01,) * 3))
    assert plan_route(Roster(slow, 24), Span(0, 8)) == route("ann 0:3, bob 3:8")


def test_the_fastest_worker_wins_and_prompts_may_find_another_the_fastest():
    at_decode = workers("ann 0:8", pace=Pace((0.01,) * 3, prefill=0.02))
    at_prompts = workers("bob 0:8", pace=Pace((0.02,) * 3, prefill=0.001))
    both = Roster(at_decode | at_prompts, NUM_BLOCKS)
    assert plan_route(both, Span(0, 8), needs=Needs(10, 100)) == route("ann 0:8")
    assert plan_route(both, Span(0, 8), needs=Needs(1000, 100)) == route("bob 0:8")


def test_of_equal_workers_the_less_loaded_is_taken():
    both = roster("ann 0:8, bob 0:8")
    for loaded, other in ((ANN, "bob 0:8"), (BOB, "ann 0:8")):
        survey = Survey(loads={loaded: Load(sessions=1)})
        assert plan_route(both, Span(0, 8), survey=survey) == route(other)


def test_a_fast_worker_may_be_loaded_until_a_slow_one_is_as_fast():
    fast = workers("ann 0:8", pace=Pace((0.010, 0.080, 0.320)))
    slow = workers("bob 0:8", pace=Pace((0.045, 0.360, 1.440)))
    both = Roster(fast | slow, NUM_BLOCKS)
    for sessions, taken in ((3, "ann 0:8"), (4, "bob 0:8")):
        survey = Survey(loads={ANN: Load(sessions)})
        assert plan_route(both, Span(0, 8), survey=survey) == route(taken)


@pytest.mark.parametrize(
    "load", [Load(1, busy=0.9), Load(queued_tokens=500), Load(bytes_per_second=1e5)]
)
def test_a_wait_a_queue_and_a_slow_uplink_cost_too(load: Load):
    both = roster("ann 0:8, bob 0:8")
    survey = Survey(loads={ANN: load, BOB: Load(1, bytes_per_second=1e9)})
    needs = Needs(100, 10, row_bytes=8192)
    assert plan_route(both, Span(0, 8), survey=survey, needs=needs) == route("bob 0:8")


def test_a_worker_that_says_absurd_things_is_used_if_there_is_no_other():
    absurd = Load(1 << 62, 1 << 62, busy=1.0, bytes_per_second=5e-324)
    survey = Survey(delays={BOB: 3600.0}, loads={BOB: absurd})
    needs = Needs(1 << 24, 256, row_bytes=1 << 17)
    some = roster("ann 0:4, bob 4:8", pace=Pace((3600.0,) * 3, 3600.0))
    assert plan_route(some, Span(0, 8), survey=survey, needs=needs) == route("ann 0:4, bob 4:8")


def test_the_nearest_worker_wins_and_a_far_one_only_if_it_is_that_much_faster():
    survey = Survey(delays={ANN: 0.1, BOB: 0.001})
    assert plan_route(roster("ann 0:8, bob 0:8"), Span(0, 8), survey=survey) == route("bob 0:8")
    assert plan_route(paced(ann=1, bob=60), Span(0, 8), survey=survey) == route("ann 0:8")


def test_workers_near_to_each_other_make_a_route_though_the_gateway_is_far_from_both():
    some = roster("ann 0:4, bob 4:8, cyd 4:8")
    survey = Survey(delays={ANN: 0.05, BOB: 0.05, CYD: 0.05}, between={ANN: {CYD: 0.001}})
    assert plan_route(some, Span(0, 8), survey=survey) == route("ann 0:4, cyd 4:8")
    heard = Survey(delays=survey.delays, between={CYD: {ANN: 0.001}})
    assert plan_route(some, Span(0, 8), survey=heard) == route("ann 0:4, cyd 4:8")


def test_a_replacement_is_chosen_for_the_neighbours_it_gets():
    some = roster("bob 4:8, cyd 4:8")
    survey = Survey(delays={BOB: 0.001, CYD: 0.05}, between={ANN: {}, CYD: {ANN: 0.001}})
    assert plan_route(some, Span(4, 8), survey=survey) == route("bob 4:8")
    near = Survey(delays=survey.delays, between={CYD: {ANN: 0.0001}, BOB: {ANN: 0.1}})
    ends = Ends(before=ANN, after=ANN)
    assert plan_route(some, Span(4, 8), survey=near, ends=ends) == route("cyd 4:8")


def test_a_worker_without_room_is_taken_only_where_there_is_no_way_around_it():
    some = Roster(workers("ann 0:8", max_tokens=100) | workers("bob 0:4, cyd 4:8"), NUM_BLOCKS)
    assert plan_route(some, Span(0, 8), needs=Needs(90, 10)) == route("ann 0:8")
    assert plan_route(some, Span(0, 8), needs=Needs(90, 11)) == route("bob 0:4, cyd 4:8")
    full = Survey(loads={ANN: Load(room_tokens=50)})
    assert plan_route(some, Span(0, 8), survey=full, needs=Needs(50, 1)) == route(
        "bob 0:4, cyd 4:8"
    )
    needs = Needs(90, 11)
    assert plan_route(some, Span(0, 8), needs=needs, avoid={BOB}) == route("ann 0:8")


def test_kept_prompts_win_over_somewhat_faster_workers():
    both = paced(ann=10, bob=9)
    kept = [Kept({Hop(ANN, Span(0, 8))}, 64)]
    assert plan_route(both, Span(0, 8), needs=Needs(70, 5), kept=kept) == route("ann 0:8")
    assert plan_route(both, Span(0, 8), needs=Needs(70, 500), kept=kept) == route("bob 0:8")
    assert plan_route(both, Span(0, 8), needs=Needs(70, 5), kept=kept, avoid={ANN}) == route(
        "bob 0:8"
    )


def test_kept_prompts_are_found_only_by_the_hops_that_kept_them():
    some = roster("ann 0:6, bob 3:8, cyd 0:8", max_tokens=1000)
    hops = {*route("ann 0:5, bob 5:8, bob 4:8, ann 0:3")}
    needs = Needs(640, 1)
    assert plan_route(some, Span(0, 8), needs=needs, kept=[Kept(hops, 640)]) == route(
        "ann 0:5, bob 5:8"
    )
    lost = hops - {Hop(BOB, Span(5, 8))}
    assert plan_route(some, Span(0, 8), needs=needs, kept=[Kept(lost, 640)]) == route("cyd 0:8")


def test_only_the_trusted_are_next_to_the_gateway():
    some = roster("ann 0:3, bob 0:8, cyd 5:8")
    ends = Ends(trusted={ANN, CYD})
    assert plan_route(some, Span(0, 8), ends=ends) == route("ann 0:3, bob 3:5, cyd 5:8")
    assert plan_route(some, Span(3, 8), ends=ends._replace(before=ANN)) == route("bob 3:5, cyd 5:8")
    assert plan_route(some, Span(3, 5), ends=Ends(ANN, CYD, frozenset())) == route("bob 3:5")


def test_without_a_trusted_worker_at_an_end_there_is_no_route_and_the_block_is_named():
    some = roster("ann 0:3, bob 0:8")
    with pytest.raises(NoRoute, match="no trusted worker serves block 7 of"):
        plan_route(some, Span(0, 8), ends=Ends(trusted={ANN}))
    with pytest.raises(NoRoute, match="block 0 nor 7 of"):
        plan_route(some, Span(0, 8), ends=Ends(trusted=frozenset()))
    with pytest.raises(NoRoute, match="blocks 8:9 of"):
        plan_route(some, Span(0, 9), ends=Ends(trusted={ANN}))


def test_a_trusted_worker_is_found_among_many_cheaper_ones():
    many = workers(", ".join(f"w{n} 0:8" for n in range(3 * CHOICES)), pace=Pace((0.001,) * 3))
    slow = workers("ann 0:2, bob 7:8", pace=Pace((0.1,) * 3))
    ends = Ends(trusted={ANN, BOB})
    found = plan_route(Roster(many | slow, NUM_BLOCKS), Span(0, 8), ends=ends)
    assert (found[0].worker, found[-1].worker) == (ANN, BOB)


def test_the_avoided_the_leaving_and_those_of_other_models_are_left_out():
    some = workers("ann 0:8, bob 0:8") | workers("abe 0:8", leaving=True)
    some |= workers("aby 0:8", num_blocks=NUM_BLOCKS + 1)
    assert plan_route(Roster(some, NUM_BLOCKS), Span(0, 8), avoid={ANN}) == route("bob 0:8")


def test_without_a_route_the_uncovered_blocks_are_named():
    with pytest.raises(NoRoute, match="2:3, 6:8"):
        plan_route(roster("ann 0:2, bob 3:6"), Span(0, 8))
    with pytest.raises(NoRoute, match="0:8"):
        plan_route(Roster({}, NUM_BLOCKS), Span(0, 8))


def test_the_order_of_the_view_does_not_matter():
    view = workers("ann 0:8, bob 0:8, cyd 0:8")
    backwards = Roster(dict(reversed(view.items())), NUM_BLOCKS)
    assert plan_route(Roster(view, NUM_BLOCKS), Span(0, 8)) == plan_route(backwards, Span(0, 8))


def test_who_is_changed_to_where_another_begins_is_no_hop_without_blocks():
    quick, slow = Pace((0.001,) * 3), Pace((0.030,) * 3)
    some = workers("ann 0:4, cyd 4:12", pace=quick) | workers("bob 0:8", pace=slow)
    survey = Survey(between={ANN: {BOB: 0.001, CYD: 0.5}, BOB: {CYD: 0.001}})
    found = plan_route(Roster(some, NUM_BLOCKS), Span(0, 12), survey=survey)
    assert found == route("bob 0:4, cyd 4:12")


@st.composite
def swarms(draw: st.DrawFn) -> tuple[Roster, Survey]:
    """Some workers of a model of 12 blocks, of any speed, at any distance."""
    hosted = draw(st.lists(spans, min_size=1, max_size=len(NAMES)))
    view = {
        name: announcement(
            worker=name, span=span, num_blocks=12, pace=Pace((draw(seconds),) * 3, draw(seconds))
        )
        for name, span in zip(NAMES, hosted, strict=False)
    }
    survey = Survey(
        delays=draw(delays),
        between={name: draw(delays) for name in draw(st.sets(st.sampled_from(NAMES), max_size=3))},
    )
    return Roster(view, 12), survey


def all_routes(some: Roster, span: Span) -> Iterator[Route]:
    """Every route, that is every worker for every block."""
    hosts = [some.usable(Span(block, block + 1), set()) for block in range(span.start, span.end)]
    for chosen in product(*hosts):
        cuts = [0, *(n for n in range(1, len(chosen)) if chosen[n] is not chosen[n - 1])]
        yield tuple(
            Hop(chosen[a].worker, Span(span.start + a, span.start + b))
            for a, b in pairwise([*cuts, len(chosen)])
        )


def cost(found: Route, some: Roster, prices: Prices) -> float:
    """What a route costs, by adding it all up."""
    hops = [some.get(hop.worker) for hop in found]
    offers = [prices.offer(a, h.span, None) for a, h in zip(hops, found, strict=True) if a]
    ways = sum(prices.way(a, b) for a, b in pairwise(offers))
    ends = offers[0].way_seconds + offers[-1].way_seconds
    parts = zip(offers, found, strict=True)
    return ways + ends + sum(o.hop_seconds + len(h.span) * o.block_seconds for o, h in parts)


@settings(max_examples=60, deadline=None)
@given(swarms(), st.integers(0, 4), st.integers(1, 4))
def test_no_route_is_cheaper_than_the_one_found(
    swarm: tuple[Roster, Survey], start: int, length: int
):
    some, survey = swarm
    span = Span(start, start + length)
    prices = Prices(survey, Needs(5, 20))
    offers = some.shortlist(prices, span, avoid=set(), trusted=None)
    plan = Trellis(prices, span, Ends()).cheapest(offers)
    routes = list(all_routes(some, span))
    if plan is None:
        assert not routes
        return
    assert plan.seconds == pytest.approx(cost(plan.route, some, prices))
    assert plan.seconds <= min(cost(r, some, prices) for r in routes) + 1e-9


@given(st.lists(spans, max_size=6), spans)
def test_there_is_a_tiling_route_exactly_when_every_block_is_hosted(hosted: list[Span], span: Span):
    names = [PeerId(name) for name in "abcdef"]
    view = {n: announcement(worker=n, span=s) for n, s in zip(names, hosted, strict=False)}
    if uncovered(hosted, span):
        with pytest.raises(NoRoute):
            plan_route(Roster(view, NUM_BLOCKS), span)
        return
    found = plan_route(Roster(view, NUM_BLOCKS), span)
    assert tiles(found, span)
    assert all(view[hop.worker].span.covers(hop.span) for hop in found)


def test_the_way_to_one_that_cannot_be_dialled_is_both_legs_through_the_gateway():
    halves = workers("ann 0:12, bob 12:24, cyd 12:24")
    halves[BOB] = announcement(worker=BOB, span=Span(12, 24), url="", attached=(PeerId("gate"),))
    far = Survey(delays={ANN: 0.05, BOB: 0.02, CYD: 0.04})
    hidden = plan_route(Roster(halves, NUM_BLOCKS), Span(0, 24), survey=far, needs=Needs(1, 100))
    assert hidden == route("ann 0:12, cyd 12:24")  # 0.05 + 0.04, not 0.05 + 0.02 + 0.02
    halves[BOB] = announcement(worker=BOB, span=Span(12, 24))
    shown = plan_route(Roster(halves, NUM_BLOCKS), Span(0, 24), survey=far, needs=Needs(1, 100))
    assert shown == route("ann 0:12, bob 12:24")


def test_a_link_that_one_who_cannot_be_dialled_has_made_itself_counts_as_it_is():
    halves = workers("ann 0:12, bob 12:24, cyd 12:24")
    halves[BOB] = announcement(worker=BOB, span=Span(12, 24), url="", attached=(PeerId("gate"),))
    known = Survey(delays={ANN: 0.05, BOB: 0.02, CYD: 0.04}, between={BOB: {ANN: 0.01}})
    best = plan_route(Roster(halves, NUM_BLOCKS), Span(0, 24), survey=known, needs=Needs(1, 100))
    assert best == route("ann 0:12, bob 12:24")
