"""An overview says who hosts what, whether an observer or a gateway saw it."""

import json

import pytest

from gateway.api.status import swarm_snapshot
from shared.errors import ProtocolError
from shared.overview import Overview, coverage, of_snapshot, of_view, stretches
from shared.swarm import ModelSpec, PeerId, Span
from shared.wire.messages import Status
from tests.shared.announcing import ANN, BOB, CYD, announcement

SPEC = ModelSpec("acme/tiny", "abc123", 24, 64, 100, 2048)
VIEW = {
    PeerId(who.peer): announcement(who, span=span, leaving=leaving, tokens_per_second=4.0)
    for who, span, leaving in (
        (CYD, Span(8, 24), True),
        (ANN, Span(0, 8), False),
        (BOB, Span(4, 12), False),
    )
}


def seen() -> Overview:
    return of_view(SPEC, VIEW, expires_in=lambda peer: 5.25 if peer == ANN.peer else 9.0)


def test_workers_stand_in_the_order_of_their_blocks():
    assert [(line.start, line.end, line.leaving) for line in seen().workers] == [
        (0, 8, False),
        (4, 12, False),
        (8, 24, True),
    ]
    assert seen().workers[0].lease_seconds_left == 5.2


def test_who_is_leaving_covers_nothing():
    assert seen().coverage == (1,) * 4 + (2,) * 4 + (1,) * 4 + (0,) * 12
    assert seen().uncovered == ("12:24",)
    assert not seen().complete


def test_a_gateway_s_snapshot_reads_as_the_same_overview():
    busy = Status(sessions=2, queued_steps=3, pages_free=10, pages_total=16, decode_seconds=0.1)
    snapshot = swarm_snapshot(
        SPEC,
        VIEW,
        expires_in=lambda peer: 5.25 if peer == ANN.peer else 9.0,
        statuses={PeerId(BOB.peer): busy},
        linked={PeerId(BOB.peer)},
    )
    told = of_snapshot(json.dumps(snapshot | {"gateway": "G", "known_nodes": 3}).encode())
    assert (told.coverage, told.uncovered, told.complete) == (
        seen().coverage,
        seen().uncovered,
        False,
    )
    ann, bob, cyd = told.workers
    assert (ann.linked, ann.status) == (False, None)
    assert bob.linked
    assert bob.status is not None
    assert bob.status.queued_steps == 3
    assert bob.speed == pytest.approx(10.0)
    assert cyd.leaving


def test_the_speed_is_what_the_worker_announced_where_no_link_tells_more():
    assert seen().workers[0].speed == 4.0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>hello</html>",
        b"[]",
        b'{"model": "m"}',
        b"[" * 100_000,
        b'{"model":"m","revision":"r","num_blocks":3,"workers":[],"coverage":[1],"uncovered":[],'
        b'"complete":true}',
    ],
)
def test_what_is_no_snapshot_is_refused(body: bytes):
    with pytest.raises(ProtocolError):
        of_snapshot(body)


def test_coverage_counts_the_spans_over_each_block_and_no_block_beyond_the_model():
    assert coverage([Span(0, 2), Span(1, 9)], 4) == [1, 2, 1, 1]


def test_stretches_are_spans_of_equal_count():
    assert stretches([1, 1, 2, 0]) == [(Span(0, 2), 1), (Span(2, 3), 2), (Span(3, 4), 0)]
    assert stretches([]) == []
