"""A shelf keeps each worker's newest believable record for its lease, within bounds."""

from typing import Any

import pytest

from shared.discovery import shelf as shelf_module
from shared.discovery.shelf import Shelf
from shared.errors import RecordError
from shared.identity import Identity
from shared.records import MAX_CLOCK_SKEW_SECONDS
from tests.shared.announcing import ANN, BOB, CYD, NOW, TOPIC, Clock, record


class Shelves:
    """A shelf and its two clocks."""

    def __init__(self) -> None:
        self.clock, self.monotonic = Clock(NOW), Clock()
        self.shelf = Shelf(clock=self.clock, monotonic=self.monotonic)

    def put(self, identity: Identity, topic: str = TOPIC, **changes: Any) -> bool:
        return self.shelf.put(topic, record(identity, **changes))

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.monotonic.now += seconds

    def remaining(self) -> list[float]:
        return [round(sighting.remaining_seconds) for sighting in self.shelf.sightings(TOPIC)]


def test_a_record_counts_for_its_lease_since_it_arrived():
    s = Shelves()
    s.clock.now += 100  # the worker's clock is behind ours: its lease is not shorter for it
    assert s.put(ANN, issued_at=NOW)
    s.wait(5)
    assert s.remaining() == [7]
    s.wait(7)
    assert s.remaining() == []


def test_what_a_holder_says_can_only_shorten_a_lease():
    s = Shelves()
    s.shelf.put(TOPIC, record(ANN), remaining_seconds=3)
    s.shelf.put(TOPIC, record(BOB), remaining_seconds=100)
    assert s.remaining() == [3, 12]


def test_the_same_or_an_older_record_changes_nothing():
    s = Shelves()
    assert s.put(ANN, sequence=2)
    s.wait(5)
    assert not s.put(ANN, sequence=2)
    assert not s.put(ANN, sequence=1)
    assert s.remaining() == [7]
    assert s.put(ANN, sequence=3)
    assert s.remaining() == [12]


def test_a_dead_worker_is_not_revived_by_its_last_record():
    s = Shelves()
    s.put(ANN)
    s.wait(60)
    s.shelf.sweep()
    assert not s.put(ANN)
    assert s.remaining() == []


def test_a_record_is_forgotten_when_it_would_be_refused_anyway():
    s = Shelves()
    s.put(ANN)
    s.wait(12 + MAX_CLOCK_SKEW_SECONDS + 1)
    s.shelf.sweep()
    with pytest.raises(RecordError, match="expired"):
        s.put(ANN)
    assert s.put(ANN, issued_at=s.clock.now, sequence=0)


@pytest.mark.parametrize(
    ("topic", "changes"),
    [("test/other@abc123", {}), (TOPIC, {"issued_at": NOW + 1000}), (TOPIC, {"issued_at": 0.0})],
    ids=["other topic", "future", "expired"],
)
def test_a_record_not_to_be_believed_is_refused(topic: str, changes: dict[str, Any]):
    with pytest.raises(RecordError):
        Shelves().put(ANN, topic, **changes)


def test_a_cursor_brings_only_what_arrived_since():
    s = Shelves()
    s.put(ANN)
    first = s.shelf.page(TOPIC, mark=b"", cursor=0)
    s.put(BOB)
    s.put(ANN, sequence=2)
    second = s.shelf.page(TOPIC, mark=first.mark, cursor=first.cursor)
    assert [held.record for held in second.held] == [record(BOB), record(ANN, sequence=2)]
    assert s.shelf.page(TOPIC, mark=second.mark, cursor=second.cursor).held == []


def test_a_cursor_of_another_shelf_starts_anew():
    s = Shelves()
    s.put(ANN)
    assert len(s.shelf.page(TOPIC, mark=b"older me", cursor=99).held) == 1


def test_a_long_answer_comes_in_pages(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shelf_module, "MAX_PAGE_BYTES", len(record(ANN)) + 10)
    s = Shelves()
    for identity in (ANN, BOB, CYD):
        s.put(identity)
    cursor, seen, is_last = 0, list[bytes](), False
    while not is_last:
        page = s.shelf.page(TOPIC, mark=s.shelf.mark, cursor=cursor)
        assert len(page.held) == 1
        cursor, is_last = page.cursor, page.is_last
        seen += [held.record for held in page.held]
    assert seen == [record(ANN), record(BOB), record(CYD)]


def test_a_full_topic_refuses_newcomers_but_not_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shelf_module, "MAX_WORKERS_PER_TOPIC", 2)
    s = Shelves()
    s.put(ANN)
    s.put(BOB)
    with pytest.raises(RecordError, match="topic has its 2 workers"):
        s.put(CYD)
    assert s.put(BOB, sequence=2)
    s.wait(11)
    s.put(BOB, sequence=3)
    s.wait(1)
    assert s.put(CYD)  # in the place of ann, whose lease has passed


@pytest.mark.parametrize(("limit", "what"), [("MAX_TOPICS", "topics"), ("MAX_RECORDS", "records")])
def test_a_full_shelf_refuses_until_something_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, limit: str, what: str
):
    monkeypatch.setattr(shelf_module, limit, 1)
    s = Shelves()
    s.put(ANN)
    with pytest.raises(RecordError, match=f"its 1 {what}"):
        s.put(BOB, "test/other@abc123", model="other")
    s.wait(12 + MAX_CLOCK_SKEW_SECONDS + 1)
    assert s.put(BOB, "test/other@abc123", model="other", issued_at=s.clock.now)
