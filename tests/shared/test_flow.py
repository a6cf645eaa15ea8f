"""What a placement carries, against a general max-flow."""

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.flow import Host, bound, levels, throughput
from shared.swarm import Span

NUM_BLOCKS = 9


@st.composite
def placements(draw: st.DrawFn) -> list[Host]:
    spans = st.tuples(st.integers(0, NUM_BLOCKS - 1), st.integers(1, NUM_BLOCKS)).filter(
        lambda pair: pair[0] < pair[1]
    )
    hosts = draw(st.lists(st.tuples(spans, st.integers(1, 1000), st.integers(0, 4)), max_size=7))
    return [Host(Span(*span), float(speed), more) for span, speed, more in hosts]


def flow(hosts: list[Host], level: float) -> float:
    """The most that can be done when every block takes up to `level`, by networkx."""
    graph = networkx.DiGraph()
    graph.add_nodes_from(["source", "sink"])
    for index, host in enumerate(hosts):
        graph.add_edge("source", index, capacity=host.speed)
        for block in range(host.span.start, host.span.end):
            graph.add_edge(index, f"block {block}")
    for block in range(NUM_BLOCKS):
        graph.add_edge(f"block {block}", "sink", capacity=level)
    return networkx.maximum_flow_value(graph, "source", "sink")


@given(placements())
def test_every_block_can_have_the_throughput_and_not_more(hosts: list[Host]):
    most = throughput(hosts, NUM_BLOCKS)
    assert flow(hosts, most) == pytest.approx(most * NUM_BLOCKS)
    more = most * 1.01 + 0.01
    assert flow(hosts, more) < more * NUM_BLOCKS * (1 - 1e-6)


@given(placements())
def test_levels_carry_as_much_as_any_flow_whatever_blocks_may_take_at_most(hosts: list[Host]):
    found = levels(hosts, NUM_BLOCKS)
    assert min(found) == pytest.approx(throughput(hosts, NUM_BLOCKS))
    for most in found:
        assert sum(min(most, level) for level in found) == pytest.approx(flow(hosts, most))


@given(placements(), st.randoms(use_true_random=False))
def test_no_placement_exceeds_the_bound(hosts: list[Host], chance):
    elsewhere = []
    for host in hosts:
        start = chance.randint(0, NUM_BLOCKS - len(host.span))
        elsewhere.append(Host(Span(start, start + len(host.span)), host.speed, host.fits))
    limit = bound(hosts, NUM_BLOCKS)
    assert throughput(hosts, NUM_BLOCKS) <= limit * (1 + 1e-6)
    assert throughput(elsewhere, NUM_BLOCKS) <= limit * (1 + 1e-6)


def test_a_span_is_used_in_part_where_others_lack():
    fast, slow = Host(Span(0, 6), 9.0), Host(Span(3, 9), 9.0)
    assert levels([fast, slow], 9) == [2.0] * 9
    assert levels([fast, slow, Host(Span(0, 1), 5.0)], 9)[0] == 5.0


def test_a_block_without_hosts_has_nothing_and_takes_from_nobody():
    assert levels([Host(Span(0, 2), 4.0), Host(Span(3, 4), 1.0)], 5) == [2.0, 2.0, 0.0, 1.0, 0.0]


def test_room_for_few_blocks_limits_what_speed_can_do():
    assert bound([Host(Span(0, 1), 1000.0), Host(Span(0, 4), 6.0)], 4) == 2.0
    assert bound([Host(Span(0, 1), 1000.0), Host(Span(0, 2), 6.0)], 4) == 0.0
    assert bound([], 4) == 0.0
