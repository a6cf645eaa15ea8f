"""The forwarder passes on what it is given, and misbehaves only as it is told."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.swarm.forwarder import Forwarder, Way
from tests.swarm.frame_edges import FrameEdges

Serve = Callable[[ServerConnection], Awaitable[None]]
MASK = bytes(4)


async def echo(socket: ServerConnection) -> None:
    with suppress(ConnectionClosed):
        async for message in socket:
            await socket.send(message)


@asynccontextmanager
async def forwarded(handler: Serve = echo) -> AsyncIterator[tuple[Forwarder, ClientConnection]]:
    """A WebSocket through a forwarder; it has carried a message both ways."""
    forwarder = Forwarder()
    await forwarder.start()
    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        forwarder.aim("127.0.0.1", next(iter(server.sockets)).getsockname()[1])
        url = f"ws://127.0.0.1:{forwarder.port}"
        async with connect(url, compression=None, ping_interval=None, proxy=None) as socket:
            await socket.send(b"hello")
            assert await socket.recv() == b"hello"
            try:
                yield forwarder, socket
            finally:
                await forwarder.close()


async def test_large_messages_arrive_whole():
    async with forwarded() as (_, socket):
        message = os.urandom(900_000)
        await socket.send(message)
        assert await socket.recv() == message


async def test_an_end_is_passed_on():
    async def leave(socket: ServerConnection) -> None:
        await socket.send(await socket.recv())
        await socket.close(1000, "enough")

    async with forwarded(leave) as (forwarder, socket):
        with pytest.raises(ConnectionClosed, match="enough"):
            await socket.recv()
        async with asyncio.timeout(5):
            while forwarder.lines:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_rude", [True, False])
async def test_a_cut_ends_the_connection_on_both_sides(is_rude: bool):
    ended = asyncio.Event()

    async def listen(socket: ServerConnection) -> None:
        await echo(socket)
        ended.set()

    async with forwarded(listen) as (forwarder, socket):
        forwarder.lines[0].cut(is_rude=is_rude)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        await asyncio.wait_for(ended.wait(), 5)


@pytest.mark.parametrize("way", ["there", "back"])
async def test_a_stalled_direction_passes_nothing_and_loses_nothing(way: Way):
    async with forwarded() as (forwarder, socket):
        (pipe,) = forwarder.lines[0].pipes(way)
        pipe.stall()
        await socket.send(b"one")
        await socket.send(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.1)
        pipe.resume()
        assert [await socket.recv(), await socket.recv()] == [b"one", b"two"]


async def test_a_stalled_line_can_be_cut():
    async with forwarded() as (forwarder, socket):
        forwarder.lines[0].there.stall()
        await socket.send(b"one")
        forwarder.lines[0].cut()
        with pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_a_black_hole_takes_all_and_says_nothing():
    async with forwarded() as (forwarder, socket):
        forwarder.lines[0].there.is_black_hole = True
        await socket.send(b"one")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.1)
        assert forwarder.lines


async def test_a_delay_holds_for_lines_that_are_there_and_those_to_come():
    async with forwarded() as (forwarder, socket):
        forwarder.delay(0.1)
        for opened in (socket, await connect(f"ws://127.0.0.1:{forwarder.port}", proxy=None)):
            started = time.monotonic()
            await opened.send(b"one")
            assert await opened.recv() == b"one"
            assert time.monotonic() - started >= 0.2
            await opened.close()


async def test_half_a_frame_is_followed_by_the_end():
    received = asyncio.Queue[bytes | str]()

    async def listen(socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            async for message in socket:
                await received.put(message)
                await socket.send(message)

    async with forwarded(listen) as (forwarder, socket):
        forwarder.lines[0].there.halve()
        await socket.send(b"half of this")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert received.get_nowait() == b"hello"
        assert received.empty()


async def test_garbage_stands_between_frames_and_harms_none_of_them():
    async with forwarded() as (forwarder, socket):
        forwarder.lines[0].there.inject(b"\x82\x83" + MASK + b"bad")  # whole frames, so they count
        forwarder.lines[0].back.inject(b"\x82\x03odd")
        await socket.send(b"good")
        assert [await socket.recv() for _ in range(3)] == [b"odd", b"bad", b"good"]


async def test_connections_wait_until_it_is_known_where_they_lead():
    forwarder = Forwarder()
    await forwarder.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", forwarder.port)
    writer.write(b"early")
    seen: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(await reader.readexactly(5))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        forwarder.aim("127.0.0.1", server.sockets[0].getsockname()[1])
        assert await asyncio.wait_for(seen, 5) == b"early"
        assert await reader.read() == b""
    writer.close()
    await forwarder.close()


HEAD = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
FRAMES = [
    b"\x82\x03abc",
    b"\x82\x83" + MASK + b"abc",
    b"\x89\x00",
    b"\x82\x7e" + (300).to_bytes(2, "big") + bytes(300),
    b"\x82\xff" + (70_000).to_bytes(8, "big") + MASK + bytes(70_000),
]


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
def test_frames_begin_where_the_last_has_ended_however_they_are_cut(piece: int):
    stream = HEAD + b"".join(FRAMES)
    expected = [len(HEAD)]
    for frame in FRAMES:
        expected.append(expected[-1] + len(frame))
    edges = FrameEdges()
    found: list[int] = []
    for start in range(0, len(stream), piece):
        found += [start + offset for offset in edges.feed(stream[start : start + piece])]
    assert found == expected
    assert edges.is_at_edge


def test_no_frame_begins_within_a_head_or_a_payload():
    edges = FrameEdges()
    assert not edges.is_at_edge
    edges.feed(HEAD + FRAMES[0][:-1])
    assert not edges.is_at_edge
    edges.feed(FRAMES[0][-1:] + FRAMES[4][:3])
    assert not edges.is_at_edge
