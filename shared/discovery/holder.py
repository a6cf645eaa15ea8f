# pyright: reportMissingTypeStubs=false
"""Keeps announcements for others: the side of the holder protocol that answers, and that asks.

A caller keeps one stream per holder open and sends one request at a time on it.
"""

import contextlib
import time
from collections import OrderedDict

import structlog
import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from shared.discovery.holder_messages import (
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    Get,
    NotTaken,
    Put,
    Reply,
    Request,
    Taken,
    decode_reply,
    decode_request,
    encode,
)
from shared.discovery.shelf import Shelf
from shared.discovery.visits import Visits
from shared.errors import PeerUnreachable, ProtocolError, RecordError

log = structlog.get_logger()

HOLDER_PROTOCOL = TProtocol("/bucket-brigade/holder/1")
IDLE_SECONDS = 60.0
REPLY_SECONDS = 10.0
ASK_SECONDS = 3.0
RESET_SECONDS = 0.5
MAX_KEPT_STREAMS = 64


class Holder:
    """Serves a shelf to whoever opens a stream."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._visits = Visits()

    def answer(self, request: Request) -> Reply:
        """The reply to any request that decodes."""
        match request:
            case Get():
                return self._shelf.page(request.topic, mark=request.mark, cursor=request.cursor)
            case Put():
                try:
                    self._shelf.put(request.topic, request.record)
                except RecordError as error:
                    return NotTaken(str(error)[:1024])
                return Taken()

    async def serve(self, stream: INetStream) -> None:
        """Answer one stream until it ends, idles or breaks the protocol. Called by libp2p."""
        peer = str(stream.muxed_conn.peer_id)
        if not self._visits.enter(peer):
            await _reset(stream)
            return
        try:
            while True:
                await self._serve_one(stream, peer)
        except Exception as error:  # whatever a stranger does to its stream ends only that stream
            log.debug("holder_stream_ended", peer=peer, error=repr(error))
        finally:
            self._visits.leave(peer)
            await _reset(stream)

    async def _serve_one(self, stream: INetStream, peer: str) -> None:
        with trio.fail_after(IDLE_SECONDS):
            request = decode_request(await _read_frame(stream, MAX_REQUEST_BYTES))
        await trio.sleep(self._visits.pause_seconds(peer, time.monotonic()))
        with trio.fail_after(REPLY_SECONDS):
            await _write_frame(stream, encode(self.answer(request)))


class _Line:
    """The kept stream to one holder; whoever has the lock may use it."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.stream: INetStream | None = None


class HolderCalls:
    """Asks other holders."""

    def __init__(self, host: IHost) -> None:
        self._host = host
        self._lines: OrderedDict[ID, _Line] = OrderedDict()

    async def ask(self, holder: ID, request: Request) -> Reply:
        """Its reply. Raises PeerUnreachable when there is none in time."""
        line = self._line(holder)
        try:
            with trio.fail_after(ASK_SECONDS):
                async with line.lock:
                    return await self._ask_on(line, holder, request)
        except Exception as error:  # libp2p's streams raise many unrelated classes
            raise PeerUnreachable(f"holder {holder} does not answer: {error!r}") from error

    async def _ask_on(self, line: _Line, holder: ID, request: Request) -> Reply:
        if line.stream is not None:
            # The holder may have closed a stream that idled: that is no failure of the holder.
            with contextlib.suppress(Exception):
                return await _exchange(line, line.stream, request)
        line.stream = await self._host.new_stream(holder, [HOLDER_PROTOCOL])
        return await _exchange(line, line.stream, request)

    def _line(self, holder: ID) -> _Line:
        line = self._lines.setdefault(holder, _Line())
        self._lines.move_to_end(holder)
        if len(self._lines) > MAX_KEPT_STREAMS:
            self._lines.popitem(last=False)
        return line


async def _exchange(line: _Line, stream: INetStream, request: Request) -> Reply:
    """One request and its reply; a stream that failed in between is given up."""
    is_done = False
    try:
        await _write_frame(stream, encode(request))
        reply = decode_reply(await _read_frame(stream, MAX_REPLY_BYTES))
        is_done = True
        return reply
    finally:
        if not is_done:
            line.stream = None
            await _reset(stream)


async def _read_frame(stream: INetStream, max_bytes: int) -> bytes:
    size = int.from_bytes(await _read_exactly(stream, 4), "little")
    if size > max_bytes:
        raise ProtocolError(f"frame of {size} bytes is over {max_bytes}")
    return await _read_exactly(stream, size)


async def _read_exactly(stream: INetStream, size: int) -> bytes:
    read = bytearray()
    while len(read) < size:
        part = await stream.read(size - len(read))
        if not part:
            raise ProtocolError(f"stream ended {size - len(read)} bytes early")
        read += part
    return bytes(read)


async def _write_frame(stream: INetStream, frame: bytes) -> None:
    await stream.write(len(frame).to_bytes(4, "little") + frame)


async def _reset(stream: INetStream) -> None:
    with trio.move_on_after(RESET_SECONDS) as scope, contextlib.suppress(Exception):
        scope.shield = True  # also when we are being cancelled, the other side hears of it
        await stream.reset()
