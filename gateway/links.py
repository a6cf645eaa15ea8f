"""This gateway's links to workers: dialling, introductions, and which session a frame is for."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from itertools import pairwise

import structlog
from websockets.asyncio.connection import Connection

from gateway.dial_back import DialBacks
from gateway.inbox import Event, FrameArrived, Inbox, ViewChanged, WorkerLost
from gateway.metrics import GatewayMetrics
from gateway.relays import Relays
from gateway.surveyor import Surveyor
from shared.discovery.watcher import Watcher
from shared.errors import PeerUnreachable, ProtocolError
from shared.grants import grant
from shared.hosts import Realm
from shared.identity import Identity
from shared.roster import Roster
from shared.secret import SwarmSecret
from shared.survey import Survey
from shared.swarm import PeerId, Route, SessionId, SwarmView
from shared.wire.bounds import Doors
from shared.wire.codec import Frame
from shared.wire.link import Link, LinkPool
from shared.wire.messages import (
    Checkpoint,
    Close,
    DialBack,
    Filled,
    Introduce,
    Message,
    Refused,
    Relay,
    Scores,
    States,
    Status,
    Step,
    Tokens,
)

log = structlog.get_logger()

MAX_STANDING_LINKS = 64
"""Links kept to workers of the view before any session needs them."""

MAX_UNTOLD = 1024
"""Sessions that a worker without a link is told of, should it come back, that they are over."""

FORESEEN_SECONDS = 30.0
"""How long a route, whose workers have been told who may take over from them, need not be looked
at again for another session."""
MAX_FORESEEN = 256

SETTLE_SECONDS = 5.0
"""How long requests to a gateway that has just started wait for the workers it will hear of: a
look-up by Kademlia takes a second or two."""

AVOID_SECONDS = 5.0
MAX_AVOID_SECONDS = 160.0
"""How long a worker that could not be dialled or went silent is left out of routes: at first, and
at most, doubling each time until it is forgiven."""

STRANGER_SECONDS = 20.0
"""How long somebody who dialled us may stay without being a worker of the view."""


class Links:
    """All links to workers, and the inboxes of the sessions that use them."""

    def __init__(
        self,
        identity: Identity,
        swarm: str,
        watcher: Watcher,
        *,
        clock: Callable[[], float] = time.monotonic,
        secret: SwarmSecret | None = None,
        reach: Realm = "loopback",
        settle_seconds: float = 0.0,
        doors: Doors | None = None,
        certificate: bytes = b"",
        metrics: GatewayMetrics | None = None,
    ) -> None:
        """For `settle_seconds` the view is not taken for all that there is.

        `doors` counts those who dial us, which they do under the TLS certificate of this
        fingerprint; see gateway/attach.py.
        """
        self.watcher = watcher
        self.peer = identity.peer
        self.swarm = swarm
        self._identity = identity
        self.surveyor = Surveyor()
        self._pool = LinkPool(
            identity,
            swarm,
            on_frame=self._on_frame,
            on_joined=self._on_joined,
            on_lost=self._on_lost,
            secret=secret,
            reach=reach,
            doors=doors,
        )
        self._pool.certificate = certificate
        self._clock = clock
        self._settled_at = clock() + settle_seconds
        self._dialling: set[PeerId] = set()
        self._relays = Relays(self._pool, self.surveyor, metrics)
        self._dial_backs = DialBacks(self._pool, clock)
        self._inboxes: dict[SessionId, Inbox] = {}
        self._introduced: dict[PeerId, dict[PeerId, str]] = {}
        self._avoided_until: dict[PeerId, float] = {}
        self._strikes: dict[PeerId, int] = {}
        self.leaving: set[PeerId] = set()
        """The linked workers that have said that they are about to leave."""
        self._foreseen: OrderedDict[Route, float] = OrderedDict()
        self._untold: dict[PeerId, deque[Close]] = {}
        self._roster: tuple[SwarmView, int, Roster] | None = None
        watcher.linked = self.linked

    def grant(self, session: SessionId, worker: PeerId) -> bytes:
        """Our word to a worker that a session is ours, whoever hands it the session's steps."""
        return grant(self._identity, session, worker)

    def open_inbox(self, session: SessionId) -> Inbox:
        """Where everything that concerns a session will arrive."""
        inbox = self._inboxes[session] = Inbox()
        return inbox

    def close_session(
        self, session: SessionId, workers: Iterable[PeerId], page_keys: tuple[bytes, ...]
    ) -> None:
        """Free a session here and on the workers that know it; they may keep its first pages."""
        self._inboxes.pop(session).close()
        self.surveyor.engaged(session, ())
        self._close(workers, Close(session, page_keys))

    def release(self, session: SessionId, workers: Iterable[PeerId], epoch: int) -> None:
        """Free a session on workers that have had no part in it since `epoch`."""
        self._close(workers, Close(session, epoch=epoch))

    async def accept(self, socket: Connection) -> None:
        """Serve somebody who dialled us, to the end."""
        await self._pool.accept(socket)

    def roster(self, num_blocks: int) -> Roster:
        """The workers of the view that host blocks of a model of so many, and can be reached."""
        view = self.watcher.view
        if self._roster is None or self._roster[0] is not view or self._roster[1] != num_blocks:
            self._roster = (view, num_blocks, Roster(self._reachable(view), num_blocks))
        return self._roster[2]

    def attached(self) -> Set[PeerId]:
        """The workers that cannot be dialled and hold a link to us."""
        view = self.watcher.view
        return {peer for peer in self.linked() if (one := view.get(peer)) and not one.url}

    def survey(self) -> Survey:
        """What is known of the workers' loads, and of the ways to them."""
        delays = {
            link.peer: delay
            for link in self._pool.open_links()
            if link.peer in self.watcher.view and (delay := link.quality.delay_seconds) is not None
        }
        return self.surveyor.survey(self.watcher.view, delays)

    def linked(self) -> Set[PeerId]:
        """The workers an open link leads to."""
        return {link.peer for link in self._pool.open_links()}

    @property
    def unsettled_seconds(self) -> float:
        """How long a worker that is wanting may yet be one that we have not heard of."""
        return max(0.0, self._settled_at - self._clock())

    def avoided(self) -> Set[PeerId]:
        """The workers that could not be dialled a moment ago."""
        now = self._clock()
        self._avoided_until = {p: t for p, t in self._avoided_until.items() if t > now}
        return self._avoided_until.keys()

    def blame(self, worker: PeerId) -> None:
        """Leave a worker out of all routes for a while, longer each time.

        It is one incident that many sessions notice: what comes while it is avoided adds nothing.
        """
        if worker in self.avoided():
            return
        strikes = self._strikes[worker] = self._strikes.get(worker, 0) + 1
        seconds = min(AVOID_SECONDS * 2 ** (strikes - 1), MAX_AVOID_SECONDS)
        self._avoided_until[worker] = self._clock() + seconds

    async def answers(self, worker: PeerId, seconds: float) -> bool:
        """Whether a worker answers a ping within so many seconds."""
        link = self._pool.get(worker)
        return link is not None and await link.answers(seconds)

    def forgive(self, workers: Iterable[PeerId]) -> None:
        """These workers have just done their part."""
        if self._strikes:
            for worker in workers:
                self._strikes.pop(worker, None)

    async def prepare(self, route: Route) -> None:
        """Make sure of a link to every hop. Raises PeerUnreachable, after noting whom to avoid."""
        await asyncio.gather(*(self._connect(hop.worker) for hop in route))

    def acquaint(self, route: Route) -> None:
        """Have the hops of a route link to each other: the sooner, the less a first step waits."""
        for hop, following in pairwise(route):
            if self._has(hop.worker):
                self._introduce(hop.worker, following.worker)

    def is_to_foresee(self, route: Route) -> bool:
        """Whether it is time to look who may take over from the hops of a route, once a while."""
        now = self._clock()
        if now < self._foreseen.get(route, now):
            return False
        self._foreseen[route] = now + FORESEEN_SECONDS
        self._foreseen.move_to_end(route)
        if len(self._foreseen) > MAX_FORESEEN:
            self._foreseen.popitem(last=False)
        return True

    def post(self, route: Route, message: Message, payload: bytes = b"") -> None:
        """Send to the first hop of a route whose hops know each other. Raises PeerUnreachable."""
        self.acquaint(route)
        self._link(route[0].worker).post(message, payload)

    async def keep_linked(self) -> None:
        """Keep links to the workers of the view, and wake waiting sessions when it changes."""
        async with asyncio.TaskGroup() as dials:  # a slow one must not keep news from sessions
            while True:
                for worker in self._missing():
                    self._dialling.add(worker)
                    dials.create_task(self._try_to_connect(worker))
                self._end_strangers()
                self._tell_all(ViewChanged())
                with suppress(TimeoutError):
                    async with asyncio.timeout(AVOID_SECONDS):
                        await self.watcher.wait_changed()

    def _missing(self) -> list[PeerId]:
        """The workers to dial, as many as there is room for links."""
        missing = [
            worker
            for worker, one in sorted(self.watcher.view.items())
            if one.url
            and not (one.leaving or self._has(worker) or worker in self._dialling)
            and worker not in self.avoided()
        ]
        dialled = self.linked() & self.watcher.view.keys() - self.attached()
        room = MAX_STANDING_LINKS - len(dialled) - len(self._dialling)
        return missing[: max(0, room)]

    async def _try_to_connect(self, worker: PeerId) -> None:
        try:
            await self._connect(worker)
        except PeerUnreachable:
            pass  # told by then
        except Exception:  # the outermost: one strange worker must not end all dialling
            log.exception("dial_failed", worker=worker)
        finally:
            self._dialling.discard(worker)

    async def close(self) -> None:
        """End all links."""
        await self._dial_backs.close()
        await self._pool.close()

    def _end_strangers(self) -> None:
        """Those who dialled us and are no workers take the places of those who are."""
        for link in self._pool.open_links():
            is_known = not link.is_inbound or link.peer in self.watcher.view
            if not is_known and link.age_seconds > STRANGER_SECONDS:
                link.abandon()

    def _reachable(self, view: SwarmView) -> SwarmView:
        """Without those that cannot be dialled and are attached to other gateways only."""
        return {peer: one for peer, one in view.items() if one.url or self._has(peer)}

    def _has(self, worker: PeerId) -> bool:
        return self._pool.get(worker) is not None

    async def _connect(self, worker: PeerId) -> None:
        announcement = self.watcher.view.get(worker)
        if self._has(worker):
            return
        if announcement is None:
            raise PeerUnreachable(f"{worker} left the swarm")
        if not announcement.url:
            raise PeerUnreachable(f"{worker} is attached to other gateways only")
        try:
            await self._pool.connect(worker, announcement.url, announcement.certificate)
        except PeerUnreachable as error:
            log.warning("worker_unreachable", worker=worker, error=str(error))
            self.blame(worker)
            # It may have announced itself just before it died, which the view heard of only after;
            # one that has announced itself since the dial began is alive.
            if self.watcher.view.get(worker) is announcement:
                self.watcher.lost(worker)
            raise

    def _introduce(self, worker: PeerId, following: PeerId) -> None:
        """Hand `worker` the signed address of the worker it will push to, once per address."""
        announcement = self.watcher.view.get(following)
        record = self.watcher.record_of(following)
        if announcement is None or record is None:
            return  # it was introduced while it was in the view, or will be refused
        known = self._introduced.setdefault(worker, {})
        if known.get(following) != announcement.url:
            self._link(worker).post(Introduce((record,), dial=True))
            known[following] = announcement.url
            if not announcement.url:
                self._ask_to_dial(following, worker)

    def _ask_to_dial(self, worker: PeerId, target: PeerId) -> None:
        """A worker that cannot be dialled dials the one that will push to it: a link of their own
        is better than the way through us, which they take until there is one."""
        announcement, record = self.watcher.view.get(target), self.watcher.record_of(target)
        link = self._pool.get(worker)
        if announcement and announcement.url and record and link:
            link.post(Introduce((record,), dial=True))

    def _link(self, worker: PeerId) -> Link:
        link = self._pool.get(worker)
        if link is None:
            raise PeerUnreachable(f"no link to {worker}")
        return link

    def _on_joined(self, link: Link) -> None:
        self._roster = None
        self._introduced[link.peer] = {}
        if self._is_attached_anew(link):
            self._tell_all(WorkerLost(link.peer))
        self._tell_all(ViewChanged())
        for close in self._untold.pop(link.peer, ()):
            link.post(close)
        link.post(Introduce(()))  # so that it tells us its status

    def _on_lost(self, worker: PeerId) -> None:
        log.info("worker_link_lost", worker=worker)
        self._roster = None
        self.surveyor.lost(worker)
        self.leaving.discard(worker)
        self._introduced.pop(worker, None)
        self.watcher.lost(worker)
        self._tell_all(WorkerLost(worker))

    def _is_attached_anew(self, link: Link) -> bool:
        """Whether a worker that dials us, and that we never dial, has given up an older link.

        It may be minutes before we would notice, e.g. behind a NAT that was restarted, and what we
        have sent there meanwhile is lost.
        """
        announcement = self.watcher.view.get(link.peer)
        is_undiallable = announcement is not None and not announcement.url
        return link.is_inbound and is_undiallable and self._pool.supersede(link)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        match frame.message:
            case Tokens() | Scores() | States() | Filled() | Checkpoint() | Refused() as message:
                if inbox := self._inboxes.get(SessionId(message.session)):
                    inbox.put(FrameArrived(link.peer, frame))
            case Relay() as relay:
                self._relay(link.peer, relay, frame.payload)
            case DialBack(record=record):
                self._dial_backs.ask(link, record)
            case Status() as status:
                self._heard_status(link.peer, status)
            case Step() | Close() | Introduce() | _ as message:
                raise ProtocolError(f"a gateway takes no {type(message).__name__}")

    def _relay(self, sender: PeerId, relay: Relay, payload: memoryview) -> None:
        if why := self._relays.pass_on(sender, relay, payload):
            refused = Refused(
                relay.session,
                relay.epoch,
                sender,
                "next_unreachable",
                why,
                lost=relay.worker,
            )
            if inbox := self._inboxes.get(SessionId(relay.session)):
                inbox.put(FrameArrived(sender, Frame(refused, memoryview(b""))))

    def _heard_status(self, worker: PeerId, status: Status) -> None:
        self.surveyor.heard(worker, status)
        if status.leaving and worker not in self.leaving:
            log.info("worker_is_leaving", worker=worker)
            self.leaving.add(worker)
            self._tell_all(ViewChanged())

    def _close(self, workers: Iterable[PeerId], message: Close) -> None:
        for worker in workers:
            if link := self._pool.get(worker):
                _post_quietly(link, message)
            else:
                self._keep_untold(worker, message)

    def _keep_untold(self, worker: PeerId, message: Close) -> None:
        """A worker whose link broke may come back, and hold the session still."""
        while len(self._untold) >= MAX_STANDING_LINKS and worker not in self._untold:
            del self._untold[next(iter(self._untold))]
        self._untold.setdefault(worker, deque(maxlen=MAX_UNTOLD)).append(message)

    def _tell_all(self, event: Event) -> None:
        for inbox in self._inboxes.values():
            inbox.put(event)


def _post_quietly(link: Link, message: Message) -> None:
    try:
        link.post(message)
    except PeerUnreachable as error:
        log.debug("close_not_sent", worker=link.peer, error=str(error))
