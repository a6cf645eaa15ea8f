"""Where announcements are kept and found: the protocol, and a directory in memory for tests."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from shared.records import open_record


class Sighting(NamedTuple):
    """A signed record somebody holds, and for how long it still counts, in seconds.

    The remaining time is measured by the holder's own clock since the record reached it, so that
    workers with wrong clocks are still believed for no longer than their lease.
    """

    record: bytes
    remaining_seconds: float


class Directory(Protocol):
    """Finds who announced itself under a topic. Nothing it returns is to be believed unchecked."""

    async def announce(self, topic: str, record: bytes) -> int:
        """Store a signed record; how many holders took it. Replaces the worker's older one."""
        ...

    async def lookup(self, topic: str) -> list[Sighting]:
        """Every record known under a topic."""
        ...


class MemoryDirectory:
    """A directory in this process, with an explicit clock. Holds one record per worker."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: dict[str, dict[str, tuple[bytes, float]]] = {}

    async def announce(self, topic: str, record: bytes) -> int:
        announcement = open_record(record)
        expiry = self._clock() + announcement.lease_seconds
        self._held.setdefault(topic, {})[announcement.worker] = (record, expiry)
        return 1

    async def lookup(self, topic: str) -> list[Sighting]:
        now = self._clock()
        held = self._held.get(topic, {})
        return [Sighting(record, expiry - now) for record, expiry in held.values() if expiry > now]
