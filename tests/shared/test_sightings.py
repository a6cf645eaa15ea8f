"""A view holds the workers whose newest announcement still counts."""

from typing import Any

import pytest

from shared.discovery.directory import Sighting
from shared.discovery.sightings import Changes, Sightings
from shared.identity import Identity
from shared.records import MAX_CLOCK_SKEW_SECONDS
from shared.swarm import Span
from tests.shared.announcing import ANN, BOB, NOW, TOPIC, announcement, record


def see(
    s: Sightings,
    *records: bytes,
    remaining: float = 12.0,
    at: float = 0.0,
    topic: str = TOPIC,
) -> Changes:
    """Merge records seen `at` seconds after NOW."""
    sightings = [Sighting(raw, remaining) for raw in records]
    return s.merge(topic, sightings, clock=NOW + at, monotonic=at)


def test_workers_join_once():
    s = Sightings()
    assert see(s, record(ANN), record(BOB)).joined == [announcement(ANN), announcement(BOB)]
    assert s.view == {ANN.peer: announcement(ANN), BOB.peer: announcement(BOB)}
    assert see(s, record(ANN), record(BOB)) == Changes()


def test_a_view_is_replaced_and_never_changed():
    s = Sightings()
    empty = s.view
    see(s, record(ANN))
    assert empty == {}
    assert s.view is not empty
    with pytest.raises(TypeError):
        s.view[BOB.peer] = announcement(BOB)  # type: ignore[index]


def test_a_record_seen_again_extends_nothing():
    s = Sightings()
    see(s, record(ANN), at=0)
    see(s, record(ANN), at=8)
    assert s.expires_at(ANN.peer) == 12
    assert s.expire(11.9).left == []
    assert s.expire(12.0).left == [announcement(ANN)]


def test_a_new_announcement_extends_the_lease():
    s = Sightings()
    see(s, record(ANN), at=0)
    changes = see(s, record(ANN, sequence=2), at=8)
    assert (changes.joined, changes.has_news) == ([], False)
    assert s.expires_at(ANN.peer) == 20
    assert s.record_of(ANN.peer) == record(ANN, sequence=2)


@pytest.mark.parametrize(("remaining", "expires_at"), [(3.0, 3.0), (100.0, 12.0)])
def test_a_lease_is_the_shorter_of_what_the_holder_and_the_worker_say(
    remaining: float, expires_at: float
):
    s = Sightings()
    see(s, record(ANN), remaining=remaining)
    assert s.expires_at(ANN.peer) == expires_at


@pytest.mark.parametrize("remaining", [0.0, -1.0, float("nan")])
def test_a_sighting_that_no_longer_counts_is_not_merged(remaining: float):
    s = Sightings()
    assert see(s, record(ANN), remaining=remaining) == Changes()


@pytest.mark.parametrize("changes", [{"span": Span(8, 16)}, {"leaving": True}, {"url": "ws://b:1"}])
def test_other_facts_are_news(changes: dict[str, Any]):
    s = Sightings()
    see(s, record(ANN))
    assert see(s, record(ANN, sequence=2, **changes)).has_news


@pytest.mark.parametrize("end", ["expired", "lost"])
def test_a_worker_that_left_is_out_until_it_announces_anew(end: str):
    s = Sightings()
    see(s, record(ANN, sequence=2))
    gone = s.expire(12.0) if end == "expired" else s.lose(ANN.peer)
    assert gone.left == [announcement(ANN, sequence=2)]
    assert see(s, record(ANN, sequence=2), record(ANN, sequence=1), at=13) == Changes()
    assert (s.view, s.record_of(ANN.peer), s.expires_at(ANN.peer)) == ({}, None, None)
    assert see(s, record(ANN, sequence=3), at=14).joined == [announcement(ANN, sequence=3)]


def test_losing_a_stranger_is_nothing():
    assert Sightings().lose(ANN.peer) == Changes()


def test_bad_records_are_reported_and_spoil_nothing():
    s = Sightings()
    changes = see(s, b"garbage", record(ANN, model="other"), record(BOB))
    assert len(changes.refused) == 2
    assert list(s.view) == [BOB.peer]


def test_the_newest_of_several_answers_wins():
    s = Sightings()
    see(s, record(ANN, sequence=3), record(ANN, sequence=2))
    assert s.view[ANN.peer].sequence == 3


def test_the_gone_are_forgotten_once_their_records_are_refused_anyway():
    s = Sightings()
    identities = [Identity(bytes([n]) * 32) for n in range(10, 20)]
    see(s, *(record(identity) for identity in identities))
    s.expire(12.0)
    later = 13 + MAX_CLOCK_SKEW_SECONDS
    see(s, record(ANN, issued_at=NOW + later), at=later)
    assert len(s._newest) == 1  # pyright: ignore[reportPrivateUsage]
