"""The rules we are compared with do what their papers say."""

from shared.flow import Host
from shared.rivals import (
    parallax_spans,
    parallax_start,
    petals_blocks,
    petals_move,
    petals_start,
)
from shared.swarm import Span


def test_petals_counts_a_server_fully_on_each_of_its_blocks():
    hosts = [Host(Span(0, 2), 4.0), Host(Span(1, 3), 8.0)]
    assert petals_blocks(hosts, 4) == [2.0, 6.0, 4.0, 0.0]


def test_petals_puts_a_newcomer_where_the_least_throughputs_are():
    assert petals_start([2.0, 6.0, 4.0, 0.0], 2) == 2
    assert petals_start([0.0, 0.0, 0.0], 2) == 0


def test_petals_stays_where_its_going_would_disconnect():
    assert petals_move([Host(Span(0, 2), 4.0), Host(Span(2, 4), 4.0)], 0, 4, seed=1) is None


def test_petals_moves_for_a_third_more():
    hosts = [Host(Span(0, 2), 4.0), Host(Span(0, 2), 4.0), Host(Span(0, 2), 4.0)]
    assert petals_move([*hosts, Host(Span(2, 4), 1.0)], 0, 4, seed=1) == Span(2, 4)


def test_parallax_pours_blocks_by_speed_up_to_the_room():
    hosts = [
        Host(Span(0, 1), 3.0, fits=8),
        Host(Span(0, 1), 1.0, fits=8),
        Host(Span(0, 1), 9.0, fits=2),
    ]
    assert parallax_spans(hosts, 10) == [Span(0, 8), Span(8, 10), None]
    assert parallax_spans(hosts[:1], 10) == [None]


def test_parallax_gives_later_joiners_the_lightest_layer():
    hosts = [Host(Span(0, 4), 4.0), Host(Span(4, 10), 1.0)]
    assert parallax_start(hosts, 10, 3) == 4
    assert parallax_start(hosts, 10, 8) == 2
