from typing import Any

from gateway.api.status import readiness, swarm_snapshot
from shared.swarm import Announcement, PeerId, Span
from shared.wire.messages import Status
from tests.fakes import SPEC

ann, bob, cyd = PeerId("ann"), PeerId("bob"), PeerId("cyd")


def hosts(
    worker: PeerId, start: int, end: int, *, leaving: bool = False, hidden: bool = False
) -> Announcement:
    return Announcement(
        worker=worker,
        swarm="s",
        model=SPEC.name,
        revision=SPEC.revision,
        span=Span(start, end),
        num_blocks=SPEC.num_blocks,
        url="" if hidden else f"ws://{worker}",
        attached=(PeerId("gate"),) if hidden else (),
        dtype="float32",
        sequence=1,
        issued_at=100.0,
        lease_seconds=30.0,
        leaving=leaving,
    )


def snapshot(*announcements: Announcement) -> dict[str, Any]:
    busy = Status(sessions=2, queued_steps=1, pages_free=3, pages_total=8)
    return swarm_snapshot(
        SPEC,
        {announcement.worker: announcement for announcement in announcements},
        expires_in={ann: 12.34, bob: -1.0, cyd: 1.0}.__getitem__,
        statuses={ann: busy},
        linked={ann},
    )


def test_a_worker_is_shown_with_its_span_lease_link_and_load():
    (worker,) = snapshot(hosts(ann, 0, 8))["workers"]
    load = {"sessions": 2, "queued_steps": 1, "pages_free": 3, "pages_total": 8}
    quiet = {
        "leaving": False,
        "decode_seconds": 0.0,
        "slowest_seconds": 0.0,
        "busy": 0.0,
        "queued_tokens": 0,
        "bytes_per_second": 0.0,
        "neighbours": (),
    }
    assert worker.pop("status") == load | quiet
    assert worker == {
        "peer_id": "ann",
        "start": 0,
        "end": 8,
        "url": "ws://ann",
        "dtype": "float32",
        "lease_seconds_left": 12.3,
        "leaving": False,
        "next_span": "",
        "linked": True,
        "attached": [],
        "elsewhere": False,
    }


def test_a_worker_that_said_nothing_of_its_load_has_no_status():
    (worker,) = snapshot(hosts(bob, 0, 8, leaving=True))["workers"]
    assert (worker["status"], worker["linked"], worker["leaving"]) == (None, False, True)
    assert worker["lease_seconds_left"] == 0.0


def test_workers_stand_in_the_order_of_their_blocks():
    seen = snapshot(hosts(ann, 16, 24), hosts(bob, 0, 8), hosts(cyd, 0, 8))
    assert [worker["peer_id"] for worker in seen["workers"]] == ["bob", "cyd", "ann"]


def test_coverage_counts_workers_per_block_and_names_the_gaps():
    seen = snapshot(hosts(ann, 0, 8), hosts(bob, 4, 8), hosts(cyd, 16, 24))
    assert seen["coverage"] == [1] * 4 + [2] * 4 + [0] * 8 + [1] * 8
    assert (seen["uncovered"], seen["complete"]) == (["8:16"], False)


def test_a_swarm_is_ready_when_no_block_lacks_a_worker():
    assert readiness(snapshot(hosts(ann, 0, 24))) is True
    assert readiness(snapshot(hosts(ann, 0, 8), hosts(bob, 16, 20))) == (
        "No worker hosts blocks 8:16, 20:24 of acme/tiny."
    )


def test_where_only_some_are_trusted_they_have_to_host_the_ends():
    seen = snapshot(hosts(ann, 0, 8), hosts(bob, 0, 24), hosts(cyd, 16, 24, leaving=True))
    assert readiness(seen, {bob}) is True
    assert readiness(seen, {ann, cyd}) == ("No trusted worker hosts block 23 of acme/tiny.")
    assert readiness(seen, frozenset()) == "No trusted worker hosts block 0 nor 23 of acme/tiny."


def test_a_worker_that_is_leaving_is_listed_but_covers_nothing():
    shown = snapshot(hosts(ann, 0, SPEC.num_blocks, leaving=True))
    assert len(shown["workers"]) == 1
    assert shown["uncovered"] == [f"0:{SPEC.num_blocks}"]


def test_one_that_nobody_can_dial_covers_its_blocks_where_it_is_attached_alone():
    shown = snapshot(hosts(ann, 0, 12, hidden=True), hosts(bob, 12, 24, hidden=True))
    assert [worker["elsewhere"] for worker in shown["workers"]] == [False, True]
    assert shown["uncovered"] == ["12:24"]
    assert readiness(shown) is not True
