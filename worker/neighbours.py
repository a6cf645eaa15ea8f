"""Pushes frames to the workers that come next, dialling them when told of them or when needed.

Only addresses from signed announcements are dialled, which gateways hand over before they send
steps, each for its own steps: none can crowd out or change what another has told us. Frames for one
neighbour leave in the order they were pushed, also while it is dialled. Where there can be no link,
because the other is behind NAT, frames go through the session's gateway.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import structlog

from shared.errors import PeerUnreachable, ProtocolError, RecordError
from shared.records import open_record, select
from shared.swarm import Announcement, PeerId
from shared.wire.link import Link, LinkPool
from shared.wire.messages import MAX_NEIGHBOURS, Neighbour

log = structlog.get_logger()

MAX_KNOWN = 1024
"""Workers that one gateway may introduce; those introduced longest ago are forgotten."""
MAX_PENDING_FRAMES = 1024
MAX_PENDING_BYTES = 128 << 20
MAX_DIALS = 16
"""Dials under way for the steps of one gateway."""
MAX_RELAYED = 4096
"""Sessions of which it is known that their frames go through the gateway."""
REDIAL_SECONDS = 60.0
"""How long frames go through the gateway before one that could not be dialled is dialled again."""


@dataclass(frozen=True)
class Push:
    """A frame of a session for the next worker.

    `relay` hands a frame to the session's gateway, which passes it on, if it does such; it raises
    PeerUnreachable or ProtocolError. `on_failed` hears why a frame cannot be sent in any way.
    """

    session: bytes
    frame: bytes
    on_failed: Callable[[str], None]
    relay: Callable[[bytes], None] | None = None


class Neighbours:
    """The workers this one may push to."""

    def __init__(self, pool: LinkPool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._undiallable: dict[PeerId, float] = {}
        self._relayed: OrderedDict[tuple[bytes, PeerId], None] = OrderedDict()
        self._known: dict[PeerId, OrderedDict[PeerId, Announcement]] = {}
        self._pending: dict[PeerId, list[Push]] = {}
        self._pending_bytes = 0
        self._dials: dict[asyncio.Task[Any], PeerId] = {}

    def delays(self, besides: Collection[PeerId]) -> tuple[Neighbour, ...]:
        """How far those are that there are links to, but for those `besides`."""
        known = [
            Neighbour(link.peer, delay)
            for link in self._pool.open_links()
            if link.peer not in besides and (delay := link.quality.delay_seconds) is not None
        ]
        return tuple(known[-MAX_NEIGHBOURS:])

    def introduce(self, gateway: PeerId, record: bytes) -> PeerId | None:
        """Learn a worker's address from a gateway, and who that is. A record that is forged or of
        another swarm is ignored."""
        try:
            announcement = open_record(record)
        except RecordError as error:
            log.warning("introduction_refused", error=str(error))
            return None
        if announcement.swarm != self._pool.swarm:
            log.warning("introduction_refused", error=f"of swarm {announcement.swarm!r}")
            return None
        known = self._known.setdefault(gateway, OrderedDict())
        older = known.get(announcement.worker)
        known[announcement.worker] = select(announcement, older) if older else announcement
        known.move_to_end(announcement.worker)
        if len(known) > MAX_KNOWN:
            known.popitem(last=False)
        return announcement.worker

    def forget(self, gateway: PeerId) -> None:
        """A gateway is gone, and with it all it has told us."""
        self._known.pop(gateway, None)

    def push(self, gateway: PeerId, peer: PeerId, push: Push) -> None:
        """Send a frame of a gateway's soon, by a link of our own if there can be one."""
        known = self._known.get(gateway, {}).get(peer)
        link = self._pool.get(peer)
        if peer in self._pending:
            self._wait(peer, push)
        elif link and (push.session, peer) not in self._relayed:
            _post(link, push)
        elif known is None:
            push.on_failed(f"{peer} was never introduced")
        elif push.relay and (link or not known.url or peer in self._undiallable):
            self._relay(peer, push)
            self._dial_anew(gateway, known)
        elif not known.url:
            push.on_failed(f"{peer} cannot be dialled, and the gateway passes nothing on")
        elif self._has_room(gateway):
            self._pending[peer] = []
            self._wait(peer, push)
            self._begin_dial(gateway, known)
        else:
            push.on_failed(f"{MAX_DIALS} workers are being dialled for this gateway already")

    def dial(self, gateway: PeerId, peer: PeerId) -> None:
        """Link to a worker before anything is to be pushed, as a gateway asks, if we can."""
        known = self._known.get(gateway, {}).get(peer)
        is_there = bool(self._pool.get(peer)) or peer in self._pending
        if known and known.url and not is_there and self._has_room(gateway):
            self._pending[peer] = []
            self._begin_dial(gateway, known)

    def is_dialled(self, peer: PeerId) -> bool:
        """Whether frames for a worker wait for a link to it."""
        return peer in self._pending

    def over(self, session: bytes) -> None:
        """A session is over: where its frames went need not be known any more."""
        for key in [key for key in self._relayed if key[0] == session]:
            del self._relayed[key]

    def _dial_anew(self, gateway: PeerId, known: Announcement) -> None:
        """Now and then, see whether one that could not be dialled can be by now."""
        peer = known.worker
        is_due = self._clock() >= self._undiallable.get(peer, 0.0)
        if is_due and known.url and not self._pool.get(peer) and self._has_room(gateway):
            self._undiallable[peer] = self._clock() + REDIAL_SECONDS
            dial = asyncio.create_task(self._try(known))
            self._dials[dial] = gateway
            dial.add_done_callback(self._dials.pop)

    def _relay(self, peer: PeerId, push: Push) -> None:
        """By the gateway; all frames of a session, lest one overtakes another by a new link."""
        self._relayed[push.session, peer] = None
        self._relayed.move_to_end((push.session, peer))
        if len(self._relayed) > MAX_RELAYED:
            self._relayed.popitem(last=False)
        assert push.relay
        try:
            push.relay(push.frame)
        except (PeerUnreachable, ProtocolError) as error:
            push.on_failed(str(error))

    def _has_room(self, gateway: PeerId) -> bool:
        return list(self._dials.values()).count(gateway) < MAX_DIALS

    def _begin_dial(self, gateway: PeerId, known: Announcement) -> None:
        dial = asyncio.create_task(self._dial(known))
        self._dials[dial] = gateway
        dial.add_done_callback(self._dials.pop)

    def _wait(self, peer: PeerId, push: Push) -> None:
        if len(self._pending[peer]) >= MAX_PENDING_FRAMES:
            push.on_failed(f"{MAX_PENDING_FRAMES} frames already wait for {peer}")
        elif self._pending_bytes + len(push.frame) > MAX_PENDING_BYTES:
            push.on_failed(
                f"{self._pending_bytes} bytes already wait for workers that are being dialled"
            )
        else:
            self._pending_bytes += len(push.frame)
            self._pending[peer].append(push)

    def _take_pending(self, peer: PeerId) -> list[Push]:
        pending = self._pending.pop(peer)
        self._pending_bytes -= sum(len(push.frame) for push in pending)
        return pending

    async def _try(self, known: Announcement) -> Link | PeerUnreachable:
        """A link to a worker, or why there is none."""
        peer = known.worker
        try:
            link = await self._pool.connect(peer, known.url, known.certificate)
        except PeerUnreachable as error:
            self._undiallable[peer] = self._clock() + REDIAL_SECONDS
            if len(self._undiallable) > MAX_KNOWN:
                del self._undiallable[next(iter(self._undiallable))]
            return error
        self._undiallable.pop(peer, None)
        return link

    async def _dial(self, known: Announcement) -> None:
        peer = known.worker
        outcome = await self._try(known)
        for push in self._take_pending(peer):
            if not isinstance(outcome, PeerUnreachable):
                _post(outcome, push)
            elif push.relay:
                self._relay(peer, push)
            else:
                push.on_failed(str(outcome))


def _post(link: Link, push: Push) -> None:
    try:
        link.post_frame(push.frame)
    except PeerUnreachable as error:
        push.on_failed(str(error))
