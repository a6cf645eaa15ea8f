"""Pushes frames to the workers that come next, dialling them when needed.

Only addresses from signed announcements are dialled, which gateways hand over before they send
steps. Frames for one neighbour leave in the order they were pushed, also while it is dialled.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import structlog

from shared.errors import PeerUnreachable, RecordError
from shared.records import open_record, select
from shared.swarm import Announcement, PeerId
from shared.wire.link import LinkPool

log = structlog.get_logger()

MAX_KNOWN = 8192
MAX_PENDING_FRAMES = 1024


class Neighbours:
    """The workers this one may push to."""

    def __init__(self, pool: LinkPool) -> None:
        self._pool = pool
        self._known: OrderedDict[PeerId, Announcement] = OrderedDict()
        self._pending: dict[PeerId, list[tuple[bytes, Callable[[str], None]]]] = {}
        self._dials: set[asyncio.Task[None]] = set()

    def introduce(self, record: bytes) -> None:
        """Learn a worker's address. A record that is forged or of another swarm is ignored."""
        try:
            announcement = open_record(record)
        except RecordError as error:
            log.warning("introduction_refused", error=str(error))
            return
        if announcement.swarm != self._pool.swarm:
            log.warning("introduction_refused", error=f"of swarm {announcement.swarm!r}")
            return
        known = self._known.get(announcement.worker)
        self._known[announcement.worker] = select(announcement, known) if known else announcement
        self._known.move_to_end(announcement.worker)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def push(self, peer: PeerId, frame: bytes, on_failed: Callable[[str], None]) -> None:
        """Send a frame soon; `on_failed` hears why when it cannot be sent."""
        if peer in self._pending:
            self._wait(peer, frame, on_failed)
        elif link := self._pool.get(peer):
            try:
                link.post_frame(frame)
            except PeerUnreachable as error:
                on_failed(str(error))
        elif peer in self._known:
            self._pending[peer] = [(frame, on_failed)]
            dial = asyncio.create_task(self._dial(peer, self._known[peer].url))
            self._dials.add(dial)
            dial.add_done_callback(self._dials.discard)
        else:
            on_failed(f"{peer} was never introduced")

    def _wait(self, peer: PeerId, frame: bytes, on_failed: Callable[[str], None]) -> None:
        if len(self._pending[peer]) >= MAX_PENDING_FRAMES:
            on_failed(f"{MAX_PENDING_FRAMES} frames already wait for {peer}")
        else:
            self._pending[peer].append((frame, on_failed))

    async def _dial(self, peer: PeerId, url: str) -> None:
        try:
            link = await self._pool.connect(peer, url)
        except PeerUnreachable as error:
            for _, on_failed in self._pending.pop(peer):
                on_failed(str(error))
            return
        for frame, on_failed in self._pending.pop(peer):
            try:
                link.post_frame(frame)
            except PeerUnreachable as error:
                on_failed(str(error))
