"""The WebSocket link both ends use, and the pool that keeps one per peer.

A link is the same whoever dialled. `post` never waits: frames queue under a byte limit and one
task writes them, so the order of posting is the order on the wire and a peer that stops reading
costs bounded memory before it counts as lost.
"""

import asyncio
import contextlib
import os
import socket as sockets
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from typing import Any

import structlog
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Data

from shared.errors import HandshakeError, PeerUnreachable, ProtocolError
from shared.hosts import Realm, is_within
from shared.identity import Identity
from shared.secret import SwarmSecret
from shared.swarm import PeerId
from shared.wire.bounds import MAX_LINKS_PER_ADDRESS, Allowance, Doors, Room, cost_of
from shared.wire.bundle import frames_of, send_bundle, take_bundle
from shared.wire.certificate import Certificate
from shared.wire.codec import Frame, decode, encode
from shared.wire.dialling import (
    PING_INTERVAL_SECONDS,
    PING_TIMEOUT_SECONDS,
    SERVER_OPTIONS,
    check_certificate,
    dial,
)
from shared.wire.handshake import Handshake, Side
from shared.wire.intake import MAX_UNREAD_BYTES, Intake
from shared.wire.messages import Message
from shared.wire.quality import LARGE_BYTES, Quality

log = structlog.get_logger()

HANDSHAKE_SECONDS = 5.0
FIRST_PINGS = (0.1, 0.5, 1.0)
"""Pauses after the first pings of a link, in seconds, so that its delay is known soon."""
CLOSE_SECONDS = 2.0
STALL_SECONDS = PING_INTERVAL_SECONDS + PING_TIMEOUT_SECONDS
"""How long a peer's machine may acknowledge nothing of what we sent, nor make room for more."""
MAX_UNSENT_BYTES = 256 << 20
MAX_UNSENT_BYTES_IN_ALL = 1 << 30
MAX_HANDSHAKE_BYTES = 4096
MAX_LINKS_PER_PEER = 4
MAX_REASON_BYTES = 123
"""Of a close frame (https://www.rfc-editor.org/rfc/rfc6455#section-5.5)."""


class Link:
    """A WebSocket to a peer that has proven its identity."""

    def __init__(
        self,
        socket: Connection,
        peer: PeerId,
        *,
        room: Room | None = None,
        allowance: Allowance | None = None,
        clock: Callable[[], float] = time.monotonic,
        is_inbound: bool = False,
    ) -> None:
        """`room` is what all links have for frames that wait, `allowance` is the peer's."""
        self.peer = peer
        self.is_inbound = is_inbound
        self._opened_at = clock()
        self.is_open = True
        self._socket = socket
        self._room = room or Room(MAX_UNSENT_BYTES_IN_ALL)
        self._allowance = allowance or Allowance()
        self._clock = clock
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._wake = asyncio.Event()
        self._is_hopeless = asyncio.Event()
        self._is_probed = False
        self.quality = Quality()

    def post(self, message: Message, payload: bytes | memoryview = b"") -> None:
        """Queue a frame. Raises PeerUnreachable when the link is closed or hopelessly behind."""
        self.post_frame(encode(message, payload))

    def post_frame(self, frame: bytes) -> None:
        """Queue an encoded frame. Raises as `post` does."""
        if not self.is_open:
            raise PeerUnreachable(f"link to {self.peer} is closed")
        has_room = self._room.has_for(self._unsent_bytes, len(frame))
        if self._unsent_bytes + len(frame) > MAX_UNSENT_BYTES or not has_room:
            self.is_open = False
            self._is_hopeless.set()  # the writer hangs in a send; this ends the link all the same
            raise PeerUnreachable(f"{self.peer} left {self._unsent_bytes} bytes unread")
        self._unsent.append(frame)
        self._count_unsent(len(frame))
        self._wake.set()

    @property
    def age_seconds(self) -> float:
        """How long it has been there."""
        return self._clock() - self._opened_at

    @property
    def unsent_bytes(self) -> int:
        """What the peer has left unread, as far as it waits here."""
        return self._unsent_bytes

    async def answers(self, seconds: float) -> bool:
        """Whether the peer answers a ping in time; false at once when the link ends meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await (await self._socket.ping())
        except (TimeoutError, ConnectionClosed):
            return False
        return self.is_open

    async def run(self, on_frame: Callable[["Link", Frame], None]) -> None:
        """Carry frames both ways until the link ends; cut off a peer that breaks the protocol."""
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._write()),
            asyncio.create_task(self._read(on_frame)),
            asyncio.create_task(self._is_hopeless.wait()),
            asyncio.create_task(self._measure()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.is_open = False
            await self._end(tasks)
            self._unsent.clear()
            self._count_unsent(-self._unsent_bytes)

    def abandon(self) -> None:
        """End the link soon, without waiting for it."""
        self.is_open = False
        self._wake.set()

    @property
    def address(self) -> str:
        """Where the other end is, as the network has it."""
        return address_of(self._socket)

    async def close(self) -> None:
        """End the link politely."""
        self.is_open = False
        self._wake.set()
        await hang_up(self._socket)

    async def _read(self, on_frame: Callable[["Link", Frame], None]) -> None:
        with contextlib.suppress(ConnectionClosed):
            try:
                while True:
                    message = as_bytes(await self._socket.recv())
                    for frame in map(decode, frames_of(message)):
                        on_frame(self, frame)
                        pause = self._allowance.pause_seconds(cost_of(frame), self._clock())
                        if pause:
                            await asyncio.sleep(pause)
            except ProtocolError as error:
                log.warning("peer_broke_protocol", peer=self.peer, error=str(error))
                self.is_open = False
                await hang_up(self._socket, 1002, str(error))

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while self.is_open:
                await self._wake.wait()
                self._wake.clear()
                while self._unsent:
                    await self._write_some()

    async def _write_some(self) -> None:
        bundle = take_bundle(self._unsent)
        num_bytes = sum(map(len, bundle))
        started = time.perf_counter()
        await send_bundle(self._socket, bundle)
        self._count_unsent(-num_bytes)
        if num_bytes >= LARGE_BYTES and not self._is_probed:
            await self._probe(started, num_bytes)

    async def _measure(self) -> None:
        """Learn the delay at once, then watch it."""
        with contextlib.suppress(ConnectionClosed):
            for pause in chain(FIRST_PINGS, repeat(PING_INTERVAL_SECONDS)):
                await self._probe(time.perf_counter())
                await asyncio.sleep(pause)

    async def _probe(self, started: float, num_bytes: int = 0) -> None:
        """Ping behind a frame whose sending began at `started`; nobody waits for the answer."""
        self._is_probed = True
        answer = asyncio.ensure_future(await self._socket.ping())
        answer.add_done_callback(lambda done: self._answered(done, started, num_bytes))

    def _answered(self, answer: asyncio.Future[float], started: float, num_bytes: int) -> None:
        self._is_probed = False
        if not answer.cancelled() and answer.exception() is None:
            self.quality.answered(time.perf_counter() - started, num_bytes)

    def _count_unsent(self, num_bytes: int) -> None:
        self._unsent_bytes += num_bytes
        self._room.take(num_bytes)

    async def _end(self, tasks: list[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.error("link_task_failed", peer=self.peer, exc_info=outcome)
        await hang_up(self._socket)


def address_of(socket: Connection) -> str:
    """The host at a WebSocket's other end, without the port."""
    name = socket.transport.get_extra_info("peername")
    return str(name[0]) if name else ""


async def hang_up(socket: Connection, code: int = 1000, reason: str = "") -> None:
    """Close a WebSocket. `close` alone waits without end for a peer that has stopped reading."""
    reason = reason.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await socket.close(code, reason)
    except (OSError, TimeoutError):
        socket.transport.abort()


def cut_off_when_stalled(socket: Connection) -> None:
    """Have the kernel end a connection whose other end is gone or reads nothing.

    Pings do not notice while we have more to send than it takes: they queue behind it. On Linux,
    see tcp(7).
    """
    raw = socket.transport.get_extra_info("socket")
    raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, int(STALL_SECONDS * 1000))


async def shake_hands(socket: Connection, handshake: Handshake) -> PeerId:
    """Run a handshake over a fresh socket; the peer it proved. Raises HandshakeError."""
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            for message in handshake.begin():
                await socket.send(encode(message))
            while handshake.peer is None:
                data = as_bytes(await socket.recv())
                if len(data) > MAX_HANDSHAKE_BYTES:
                    raise HandshakeError(f"{len(data)} bytes before the handshake was over")
                for message in handshake.receive(decode(data).message):
                    await socket.send(encode(message))
    except TimeoutError as error:
        raise HandshakeError(f"no handshake within {HANDSHAKE_SECONDS:.0f} s") from error
    except ConnectionClosed as error:
        raise HandshakeError(f"closed during the handshake: {error}") from error
    return handshake.peer


def as_bytes(data: Data) -> bytes:
    """A binary WebSocket message. Raises ProtocolError for a text one."""
    if isinstance(data, str):
        raise ProtocolError("text message on a binary link")
    return bytes(data)


class LinkPool:
    """All links of a process, by peer."""

    def __init__(
        self,
        identity: Identity,
        swarm: str,
        *,
        on_frame: Callable[[Link, Frame], None],
        on_joined: Callable[[Link], None] = lambda link: None,
        on_lost: Callable[[PeerId], None] = lambda peer: None,
        links_per_address: int = MAX_LINKS_PER_ADDRESS,
        doors: Doors | None = None,
        secret: SwarmSecret | None = None,
        reach: Realm = "loopback",
    ) -> None:
        """`on_lost` is called when the last link to a peer has ended, whatever ended it.

        Addresses of a narrower realm than `reach` are not dialled, see shared/hosts.py.
        From one address at most `links_per_address` are let in, any number if that is 0; `doors`
        counts them, if several pools share a port.
        """
        self.identity = identity
        self.swarm = swarm
        self._on_frame = on_frame
        self._on_joined = on_joined
        self._on_lost = on_lost
        self._links: dict[PeerId, list[Link]] = {}
        self._dials: dict[PeerId, asyncio.Task[Link]] = {}
        self._runs: set[asyncio.Task[None]] = set()
        self._allowances: dict[PeerId, Allowance] = {}
        self._doors = doors or Doors(per_address=links_per_address)
        self._unsent = Room(MAX_UNSENT_BYTES_IN_ALL)
        self._unread = Room(MAX_UNREAD_BYTES)
        self._is_closed = False
        self._secret = secret
        self._reach: Realm = reach
        self.certificate = b""
        """The fingerprint of the certificate that links are taken under, if under any."""

    def get(self, peer: PeerId) -> Link | None:
        """The newest open link to a peer."""
        for link in reversed(self._links.get(peer, ())):
            if link.is_open:
                return link
        return None

    def open_links(self) -> list[Link]:
        """One open link for every peer that has any."""
        return [link for peer in list(self._links) if (link := self.get(peer))]

    async def connect(self, peer: PeerId, url: str, certificate: bytes = b"") -> Link:
        """The link to a peer, dialled once however many ask. Raises PeerUnreachable.

        At a wss:// address it must show the certificate of this fingerprint; with none, one that
        an authority vouches for.
        """
        if link := self.get(peer):
            return link
        if self._is_closed:
            raise PeerUnreachable("all links are being closed")
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._dials[peer] = asyncio.create_task(self._dial(peer, url, certificate))
            dial.add_done_callback(lambda done: self._dial_done(peer, done))
        await asyncio.wait({dial})  # one caller's cancellation must not fail the others
        if dial.cancelled():
            raise PeerUnreachable(f"{peer} at {url}: all links are being closed")
        return dial.result()

    def address_of(self, peer: PeerId) -> str:
        """The network address of a peer's newest link; "" without one."""
        link = self.get(peer)
        return link.address if link else ""

    async def listen(
        self, host: str, port: int, *, certificate: Certificate | None = None, **options: Any
    ) -> Server:
        """Take links there until the server is closed, under TLS with a certificate.

        Raises OSError.
        """
        if certificate:
            self.certificate = certificate.fingerprint
            options["ssl"] = certificate.context
        create: Any = partial(Intake, room=self._unread)
        return await serve(
            self.accept, host, port, create_connection=create, **SERVER_OPTIONS, **options
        )

    async def accept(self, socket: Connection) -> None:
        """Serve an inbound WebSocket to its end."""
        address = address_of(socket)
        if why := self._doors.enter(address):
            log.warning("link_refused", remote=address, error=why)
            await hang_up(socket, 1013, why)
            return
        try:
            await self._accept(socket)
        finally:
            self._doors.leave(address)

    async def _accept(self, socket: Connection) -> None:
        try:
            peer = await self._prove(socket, "listener", certificate=self.certificate)
        except ProtocolError as error:
            log.warning("handshake_refused", remote=str(socket.remote_address), error=str(error))
            await hang_up(socket, 1008, str(error))
            return
        if isinstance(socket, Intake):
            socket.proven()
        await self._serve(self._joined(socket, peer, is_inbound=True))

    async def close(self) -> None:
        """End every link and every dial, and dial no more."""
        self._is_closed = True
        dials = list(self._dials.values())
        for under_way in dials:
            under_way.cancel()
        closes = [link.close() for links in self._links.values() for link in links]
        await asyncio.gather(*closes, *dials, *self._runs, return_exceptions=True)

    async def reaches(self, peer: PeerId, url: str, certificate: bytes, address: str) -> bool:
        """Whether a peer proves itself at a URL whose host is this address and no other.

        Whoever it is that answers, nothing but a handshake is said to it.
        """
        if not is_within(self._reach, address):
            return False
        try:
            socket = await self._open(peer, url, certificate, host=address)
        except PeerUnreachable as error:
            log.debug("not_reached", peer=peer, error=str(error))
            return False
        await hang_up(socket)
        return True

    def supersede(self, link: Link) -> bool:
        """Give up a peer's other links for this one; whether there were any."""
        others = [one for one in self._links[link.peer] if one is not link and one.is_open]
        for other in others:
            other.abandon()
        return bool(others)

    async def _dial(self, peer: PeerId, url: str, certificate: bytes) -> Link:
        socket = await self._open(peer, url, certificate)
        link = self._joined(socket, peer)
        run = asyncio.create_task(self._serve(link))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        return link

    async def _open(
        self, peer: PeerId, url: str, certificate: bytes, *, host: str = ""
    ) -> Connection:
        """A WebSocket to a peer that has proven itself. Raises PeerUnreachable."""
        socket = await dial(peer, url, certificate, reach=self._reach, host=host)
        try:
            check_certificate(socket, certificate)
            await self._prove(socket, "dialler", expected=peer, certificate=certificate)
        except ProtocolError as error:
            await hang_up(socket, 1008, str(error))
            raise PeerUnreachable(f"{peer} at {url}: {error}") from error
        except asyncio.CancelledError:
            socket.transport.abort()
            raise
        return socket

    def _dial_done(self, peer: PeerId, dial: asyncio.Task[Link]) -> None:
        del self._dials[peer]
        if not dial.cancelled():
            dial.exception()  # every waiter may be gone; then nobody else looks at it

    async def _prove(
        self, socket: Connection, side: Side, *, certificate: bytes, expected: PeerId | None = None
    ) -> PeerId:
        cut_off_when_stalled(socket)
        handshake = Handshake(
            self.identity,
            self.swarm,
            side,
            nonce=os.urandom(32),
            expected=expected,
            certificate=certificate,
            secret=self._secret,
        )
        return await shake_hands(socket, handshake)

    def _joined(self, socket: Connection, peer: PeerId, *, is_inbound: bool = False) -> Link:
        allowance = self._allowances.setdefault(peer, Allowance())
        link = Link(socket, peer, room=self._unsent, allowance=allowance, is_inbound=is_inbound)
        links = self._links.setdefault(link.peer, [])
        links.append(link)
        if len(links) > MAX_LINKS_PER_PEER:
            links[0].abandon()
        log.debug("link_open", peer=link.peer, is_inbound=is_inbound)
        return link

    async def _serve(self, link: Link) -> None:
        try:
            self._on_joined(link)
            await link.run(self._on_frame)
        finally:
            links = self._links[link.peer]
            links.remove(link)
            log.debug("link_closed", peer=link.peer)
            if not links:
                del self._links[link.peer]
                del self._allowances[link.peer]
                self._on_lost(link.peer)
