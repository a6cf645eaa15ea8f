"""Turns sightings of signed records into a swarm view. Pure: the clocks' readings come in.

A worker is in the view until its lease has passed since its record was first seen here. A record
seen again extends nothing: only an announcement with a higher sequence does. A worker whose lease
has passed, or that was lost, is therefore out until it announces anew.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from msgspec.structs import replace

from shared.discovery.directory import Sighting
from shared.errors import RecordError
from shared.pace import UNMEASURED
from shared.records import MAX_CLOCK_SKEW_SECONDS, validate
from shared.swarm import Announcement, PeerId, SwarmView


@dataclass
class Changes:
    """What a merge did to the view. `has_news` unless workers only repeated themselves."""

    joined: list[Announcement] = field(default_factory=list[Announcement])
    num_renewed: int = 0
    left: list[Announcement] = field(default_factory=list[Announcement])
    refused: list[RecordError] = field(default_factory=list[RecordError])
    has_news: bool = False


class _Live(NamedTuple):
    announcement: Announcement
    record: bytes
    expires_at: float


class Sightings:
    """The live workers, by a monotonic clock, and the sequences that no longer count."""

    def __init__(self) -> None:
        self.view: SwarmView = MappingProxyType({})
        """Replaced, never changed."""
        self._live: dict[PeerId, _Live] = {}
        self._records: set[bytes] = set()
        self._newest: dict[PeerId, Announcement] = {}

    def merge(
        self, topic: str, sightings: Iterable[Sighting], *, clock: float, monotonic: float
    ) -> Changes:
        """Take in what a directory holds under a topic."""
        changes = Changes()
        for record, remaining in sightings:
            if record in self._records or not remaining > 0:
                continue
            try:
                announcement = validate(record, topic=topic, now=clock)
            except RecordError as error:
                changes.refused.append(error)
                continue
            newest = self._newest.get(announcement.worker)
            if newest is None or announcement.sequence > newest.sequence:
                expires_at = monotonic + min(remaining, announcement.lease_seconds)
                self._take(_Live(announcement, record, expires_at), changes)
        if changes.joined or changes.num_renewed:
            self._renew_view()
            self._forget_the_gone(clock)
        return changes

    def expire(self, monotonic: float, *, linked: Set[PeerId] = frozenset()) -> Changes:
        """Take out the workers whose lease has passed, but for those that are `linked`."""
        passed = [p for p, live in self._live.items() if live.expires_at <= monotonic]
        return self._without(p for p in passed if p not in linked)

    def lose(self, peer: PeerId) -> Changes:
        """Take out a worker whose link broke, until it announces anew."""
        return self._without([peer] if peer in self._live else [])

    def record_of(self, peer: PeerId) -> bytes | None:
        """The signed record behind a worker in the view."""
        live = self._live.get(peer)
        return live.record if live else None

    def expires_at(self, peer: PeerId) -> float | None:
        """When a worker in the view will be out, unless it announces anew."""
        live = self._live.get(peer)
        return live.expires_at if live else None

    def _take(self, live: _Live, changes: Changes) -> None:
        worker = live.announcement.worker
        old = self._live.get(worker)
        if old is None:
            changes.joined.append(live.announcement)
        else:
            changes.num_renewed += 1
            self._records.discard(old.record)
        if old is None or _facts(old.announcement) != _facts(live.announcement):
            changes.has_news = True
        self._live[worker] = live
        self._newest[worker] = live.announcement
        self._records.add(live.record)

    def _without(self, peers: Iterable[PeerId]) -> Changes:
        changes = Changes()
        for peer in peers:
            live = self._live.pop(peer)
            self._records.discard(live.record)
            changes.left.append(live.announcement)
            changes.has_news = True
        if changes.left:
            self._renew_view()
        return changes

    def _renew_view(self) -> None:
        self.view = MappingProxyType({peer: live.announcement for peer, live in self._live.items()})

    def _forget_the_gone(self, clock: float) -> None:
        """A sequence needs no remembering once `validate` refuses its record anyway."""
        for peer, announcement in list(self._newest.items()):
            is_believable = announcement.expires_at + MAX_CLOCK_SKEW_SECONDS >= clock
            if peer not in self._live and not is_believable:
                del self._newest[peer]


def _facts(announcement: Announcement) -> Announcement:
    """An announcement without what differs each time it is made."""
    return replace(announcement, sequence=0, issued_at=0.0, tokens_per_second=0.0, pace=UNMEASURED)
