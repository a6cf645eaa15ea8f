"""Keeps a swarm view fresh: polls a directory, lets leases run out, hears of lost workers."""

import asyncio
import time
from collections.abc import Callable, Iterable, Set

import structlog

from shared.discovery.directory import Directory, Sighting
from shared.discovery.sightings import Changes, Sightings
from shared.errors import PeerUnreachable, RecordError
from shared.swarm import Announcement, PeerId, SwarmView

log = structlog.get_logger()

SWEEP_SECONDS = 0.5
WARNING_SECONDS = 60.0


class Watcher:
    """The live workers of one or several topics.

    What live links say wins over the directory: a worker reported `lost` is out at once, and
    until it announces anew; one that is `linked` stays, though its announcements be late. `clock`
    is in seconds since the epoch, for the times that workers write; leases run by `monotonic`.
    `who` announces itself there, for the log.
    """

    def __init__(
        self,
        directory: Directory,
        topics: str | Iterable[str],
        *,
        who: str = "worker",
        poll_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._topics = (topics,) if isinstance(topics, str) else tuple(topics)
        self._who = who
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._sightings = Sightings()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._next_warning = float("-inf")
        self.linked: Callable[[], Set[PeerId]] = frozenset

    @property
    def view(self) -> SwarmView:
        """The live announcements. Replaced when something changes, never changed itself."""
        return self._sightings.view

    async def start(self) -> None:
        """Begin to poll, in the background."""
        self._tasks = [asyncio.create_task(self._poll()), asyncio.create_task(self._sweep())]

    async def stop(self) -> None:
        """Stop polling; the view stays as it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def refresh(self) -> None:
        """Poll once, now. Raises PeerUnreachable when the directory is down."""
        self._expire()
        found = await asyncio.gather(*(self._directory.lookup(topic) for topic in self._topics))
        for topic, sightings in zip(self._topics, found, strict=True):
            self._merge(topic, sightings)

    def lost(self, peer: PeerId) -> None:
        """A link to the worker broke or it went silent."""
        self._tell(self._sightings.lose(peer), reason="lost")

    async def wait_changed(self) -> None:
        """Wait until a worker joins, leaves or announces other facts about itself."""
        await self._changed.wait()

    def record_of(self, peer: PeerId) -> bytes | None:
        """The signed record behind a worker in the view, for those who may dial it."""
        return self._sightings.record_of(peer)

    def expires_in(self, peer: PeerId) -> float:
        """Seconds until the worker's lease has passed; 0 when it is not in the view."""
        expires_at = self._sightings.expires_at(peer)
        return 0.0 if expires_at is None else max(0.0, expires_at - self._monotonic())

    async def _poll(self) -> None:
        while True:
            try:
                await self.refresh()
            except PeerUnreachable as error:
                log.debug("lookup_failed", error=str(error))
            except Exception:  # the outermost loop: one bad answer must not blind the gateway
                log.exception("poll_failed")
            await asyncio.sleep(self._poll_seconds)

    async def _sweep(self) -> None:
        """Apart from polling, because a look-up may take longer than a lease has left."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._expire()

    def _expire(self) -> None:
        changes = self._sightings.expire(self._monotonic(), linked=self.linked())
        self._tell(changes, reason="lease_passed")

    def _merge(self, topic: str, sightings: list[Sighting]) -> None:
        clock, monotonic = self._clock(), self._monotonic()
        changes = self._sightings.merge(topic, sightings, clock=clock, monotonic=monotonic)
        self._tell(changes, reason="")
        if changes.refused:
            self._warn(topic, changes.refused)

    def _tell(self, changes: Changes, *, reason: str) -> None:
        for announcement in changes.joined:
            log.info(f"{self._who}_joined", **_named(announcement))
        for announcement in changes.left:
            log.info(f"{self._who}_left", **_named(announcement), reason=reason)
        if changes.has_news:
            self._changed.set()
            self._changed = asyncio.Event()

    def _warn(self, topic: str, refused: list[RecordError]) -> None:
        if self._monotonic() >= self._next_warning:
            self._next_warning = self._monotonic() + WARNING_SECONDS
            log.warning("records_refused", topic=topic, num=len(refused), error=str(refused[0]))


def _named(announcement: Announcement) -> dict[str, str]:
    return {
        "worker": announcement.worker,
        "model": announcement.model,
        "span": str(announcement.span),
        "url": announcement.url,
    }
