"""The signed records a holder keeps, by topic, with bounds on everything. Pure given its clocks.

A record counts until its lease has passed since it arrived here, by our own clock. It is then
silent, but its sequence is remembered for as long as `validate` would still take the record, so
that nobody brings a dead worker back to life by sending its last record again.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from shared.discovery.directory import Sighting
from shared.discovery.holder_messages import Held, Page
from shared.errors import RecordError
from shared.records import MAX_CLOCK_SKEW_SECONDS, validate
from shared.swarm import Announcement, PeerId

MAX_TOPICS = 512
MAX_WORKERS_PER_TOPIC = 2048
MAX_RECORDS = 16_384
"""With records of at most 4 KiB: 64 MiB."""
MAX_PAGE_BYTES = 256 << 10
SWEEP_SECONDS = 30.0


class _Kept(NamedTuple):
    """A record, its place in the order of arrival, and its two ends.

    It counts until `silent_at` on our monotonic clock and is forgotten at `forgotten_at`, in
    seconds since the epoch.
    """

    record: bytes
    sequence: int
    version: int
    silent_at: float
    forgotten_at: float


class Shelf:
    """Topic to worker to its newest record, in the order of arrival."""

    def __init__(self, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self.mark = os.urandom(8)
        """Names this shelf, so that a cursor from before a restart is not believed."""
        self._clock = clock
        self._monotonic = monotonic
        self._topics: dict[str, dict[PeerId, _Kept]] = {}
        self._records: set[bytes] = set()
        self._version = 0
        self._swept_at = monotonic()

    def put(self, topic: str, record: bytes, *, remaining_seconds: float | None = None) -> bool:
        """Keep a record; whether it is news. `remaining_seconds` can only shorten its lease.

        Raises RecordError when it is not to be believed or there is no room for it.
        """
        if record in self._records:
            return False  # checked when it came first: saves a signature per further holder
        announcement = validate(record, topic=topic, now=self._clock())
        kept = self._topics.get(topic, {}).get(announcement.worker)
        if kept is not None and kept.sequence >= announcement.sequence:
            return False
        if kept is None:
            self._make_room(topic)
        else:
            self._remove(topic, announcement.worker)
        self._insert(topic, record, announcement, remaining_seconds)
        return True

    def sightings(self, topic: str) -> list[Sighting]:
        """Every record that counts now."""
        now = self._monotonic()
        kept = self._topics.get(topic, {}).values()
        return [Sighting(k.record, k.silent_at - now) for k in kept if k.silent_at > now]

    def page(self, topic: str, *, mark: bytes, cursor: int) -> Page:
        """What arrived under a topic after `cursor`, which counts only with our own `mark`."""
        reached = cursor if mark == self.mark else 0
        now = self._monotonic()
        held: list[Held] = []
        num_bytes = 0
        for kept in self._newer(topic, reached):
            num_bytes += len(kept.record)
            if num_bytes > MAX_PAGE_BYTES:
                return Page(self.mark, reached, False, held)
            if kept.silent_at > now:
                held.append(Held(kept.record, kept.silent_at - now))
            reached = kept.version
        return Page(self.mark, self._version, True, held)

    def sweep(self) -> None:
        """Forget records that `validate` would refuse by now, and topics without any."""
        self._swept_at = self._monotonic()
        now = self._clock()
        for topic, workers in list(self._topics.items()):
            for worker in [w for w, kept in workers.items() if kept.forgotten_at < now]:
                self._remove(topic, worker)
            if not workers:
                del self._topics[topic]

    def _insert(
        self, topic: str, record: bytes, announcement: Announcement, remaining: float | None
    ) -> None:
        lease = announcement.lease_seconds
        counts_for = lease if remaining is None else max(0.0, min(remaining, lease))
        self._version += 1
        self._records.add(record)
        self._topics.setdefault(topic, {})[announcement.worker] = _Kept(
            record,
            announcement.sequence,
            self._version,
            silent_at=self._monotonic() + counts_for,
            forgotten_at=announcement.expires_at + MAX_CLOCK_SKEW_SECONDS,
        )

    def _remove(self, topic: str, worker: PeerId) -> None:
        self._records.discard(self._topics[topic].pop(worker).record)

    def _newer(self, topic: str, cursor: int) -> list[_Kept]:
        """Kept records beyond a cursor, oldest first: a dict keeps the order of arrival."""
        newer: list[_Kept] = []
        for kept in reversed(self._topics.get(topic, {}).values()):
            if kept.version <= cursor:
                break
            newer.append(kept)
        return newer[::-1]

    def _make_room(self, topic: str) -> None:
        """Raises RecordError when there is no room for one more worker under a topic."""
        if self._monotonic() - self._swept_at > SWEEP_SECONDS:
            self.sweep()
        if topic not in self._topics and len(self._topics) >= MAX_TOPICS:
            raise RecordError(f"holder has its {MAX_TOPICS} topics")
        if len(self._topics.get(topic, ())) >= MAX_WORKERS_PER_TOPIC:
            self._drop_a_silent_one(topic)
        if len(self._records) >= MAX_RECORDS:
            raise RecordError(f"holder has its {MAX_RECORDS} records")

    def _drop_a_silent_one(self, topic: str) -> None:
        """Give up the memory of one dead worker. Raises RecordError when all are alive."""
        worker, kept = min(self._topics[topic].items(), key=lambda item: item[1].silent_at)
        if kept.silent_at > self._monotonic():
            raise RecordError(f"topic has its {MAX_WORKERS_PER_TOPIC} workers")
        self._remove(topic, worker)
