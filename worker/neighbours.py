"""Pushes frames to the workers that come next, dialling them when needed.

Only addresses from signed announcements are dialled, which gateways hand over before they send
steps, each for its own steps: none can crowd out or change what another has told us. Frames for one
neighbour leave in the order they were pushed, also while it is dialled.
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

MAX_KNOWN = 1024
"""Workers that one gateway may introduce; those introduced longest ago are forgotten."""
MAX_PENDING_FRAMES = 1024
MAX_PENDING_BYTES = 128 << 20
MAX_DIALS = 16
"""Dials under way for the steps of one gateway."""


class Neighbours:
    """The workers this one may push to."""

    def __init__(self, pool: LinkPool) -> None:
        self._pool = pool
        self._known: dict[PeerId, OrderedDict[PeerId, Announcement]] = {}
        self._pending: dict[PeerId, list[tuple[bytes, Callable[[str], None]]]] = {}
        self._pending_bytes = 0
        self._dials: dict[asyncio.Task[None], PeerId] = {}

    def introduce(self, gateway: PeerId, record: bytes) -> None:
        """Learn a worker's address from a gateway. A record that is forged or of another swarm is
        ignored."""
        try:
            announcement = open_record(record)
        except RecordError as error:
            log.warning("introduction_refused", error=str(error))
            return
        if announcement.swarm != self._pool.swarm:
            log.warning("introduction_refused", error=f"of swarm {announcement.swarm!r}")
            return
        known = self._known.setdefault(gateway, OrderedDict())
        older = known.get(announcement.worker)
        known[announcement.worker] = select(announcement, older) if older else announcement
        known.move_to_end(announcement.worker)
        if len(known) > MAX_KNOWN:
            known.popitem(last=False)

    def forget(self, gateway: PeerId) -> None:
        """A gateway is gone, and with it all it has told us."""
        self._known.pop(gateway, None)

    def push(
        self, gateway: PeerId, peer: PeerId, frame: bytes, on_failed: Callable[[str], None]
    ) -> None:
        """Send a frame of a gateway's soon; `on_failed` hears why when it cannot be sent."""
        known = self._known.get(gateway, {}).get(peer)
        if peer in self._pending:
            self._wait(peer, frame, on_failed)
        elif link := self._pool.get(peer):
            try:
                link.post_frame(frame)
            except PeerUnreachable as error:
                on_failed(str(error))
        elif known is None:
            on_failed(f"{peer} was never introduced")
        elif list(self._dials.values()).count(gateway) >= MAX_DIALS:
            on_failed(f"{MAX_DIALS} workers are being dialled for this gateway already")
        else:
            self._pending[peer] = []
            self._wait(peer, frame, on_failed)
            dial = asyncio.create_task(self._dial(known))
            self._dials[dial] = gateway
            dial.add_done_callback(self._dials.pop)

    def _wait(self, peer: PeerId, frame: bytes, on_failed: Callable[[str], None]) -> None:
        if len(self._pending[peer]) >= MAX_PENDING_FRAMES:
            on_failed(f"{MAX_PENDING_FRAMES} frames already wait for {peer}")
        elif self._pending_bytes + len(frame) > MAX_PENDING_BYTES:
            on_failed(
                f"{self._pending_bytes} bytes already wait for workers that are being dialled"
            )
        else:
            self._pending_bytes += len(frame)
            self._pending[peer].append((frame, on_failed))

    def _take_pending(self, peer: PeerId) -> list[tuple[bytes, Callable[[str], None]]]:
        pending = self._pending.pop(peer)
        self._pending_bytes -= sum(len(frame) for frame, _ in pending)
        return pending

    async def _dial(self, known: Announcement) -> None:
        peer = known.worker
        try:
            link = await self._pool.connect(peer, known.url, known.certificate)
        except PeerUnreachable as error:
            for _, on_failed in self._take_pending(peer):
                on_failed(str(error))
            return
        for frame, on_failed in self._take_pending(peer):
            try:
                link.post_frame(frame)
            except PeerUnreachable as error:
                on_failed(str(error))
