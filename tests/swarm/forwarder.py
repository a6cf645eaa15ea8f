"""A TCP forwarder that stands between a worker and everybody who dials it, and can misbehave.

A line is one connection through it, a pipe one direction of a line. Bytes are passed on in the
order they came; what a fault adds stands between two WebSocket frames, for TCP itself changes no
byte within one.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Literal

from tests.swarm.frame_edges import FrameEdges

Way = Literal["there", "back"]
"""To the worker, or from it."""

CHUNK_BYTES = 1 << 16
MAX_WAITING_CHUNKS = 64
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER: close at once, with a reset instead of an end, see socket(7)."""


class Pipe:
    """One direction of a line."""

    def __init__(self, cut: Callable[[], None]) -> None:
        self.delay_seconds = 0.0
        self.is_black_hole = False
        self._cut = cut
        self._edges = FrameEdges()
        self._is_to_halve = False
        self._garbage = b""
        self._flows = asyncio.Event()
        self._flows.set()
        self._waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MAX_WAITING_CHUNKS)

    def stall(self) -> None:
        """Pass nothing on until `resume`; nothing is lost meanwhile."""
        self._flows.clear()

    def resume(self) -> None:
        """Pass on what has waited and what comes."""
        self._flows.set()

    def halve(self) -> None:
        """Pass on half of what comes next, then cut the line."""
        self._is_to_halve = True

    def inject(self, garbage: bytes) -> None:
        """Add bytes before the next frame."""
        self._garbage += garbage

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what `reader` gives until it ends, then end `writer`."""
        writing = asyncio.create_task(self._write(writer))
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self._flows.wait()
                await self._pass_on(data)
            await self._waiting.put((0.0, b""))
            await writing
        finally:
            writing.cancel()
            await asyncio.wait({writing})

    async def _pass_on(self, data: bytes) -> None:
        if self.is_black_hole:
            return
        due = time.monotonic() + self.delay_seconds
        if self._is_to_halve:
            self.is_black_hole = True  # for what comes until the cut
            await self._waiting.put((due, data[: (len(data) + 1) // 2]))
            await self._waiting.put((due, b""))
            return
        await self._waiting.put((due, self._with_garbage(data)))

    def _with_garbage(self, data: bytes) -> bytes:
        starts = [0] if self._edges.is_at_edge else []
        starts += self._edges.feed(data)
        if not self._garbage or not starts:
            return data
        garbage, self._garbage = self._garbage, b""
        return data[: starts[0]] + garbage + data[starts[0] :]

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await self._waiting.get()
            await asyncio.sleep(due - time.monotonic())
            await self._flows.wait()
            if not data:
                break
            writer.write(data)
            await writer.drain()
        if self._is_to_halve:
            self._cut()
        else:
            writer.write_eof()


class Line:
    """One connection through a forwarder."""

    def __init__(self) -> None:
        self.there = Pipe(self.cut)
        self.back = Pipe(self.cut)
        self._writers: list[asyncio.StreamWriter] = []

    def pipes(self, way: Way | None = None) -> list[Pipe]:
        """The pipe of one direction, or both."""
        return {"there": [self.there], "back": [self.back], None: [self.there, self.back]}[way]

    def cut(self, *, is_rude: bool = True) -> None:
        """End the connection on both sides: with a reset, or as if both had closed it."""
        for pipe in self.pipes():
            pipe.resume()  # what waits in it has to see the end
        for writer in self._writers:
            if is_rude:
                raw: socket.socket = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()

    async def run(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Carry bytes both ways until both directions have ended, or one has failed."""
        self._writers = [near[1], far[1]]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.there.run(near[0], far[1]))
                group.create_task(self.back.run(far[0], near[1]))
        except* OSError:
            pass
        finally:
            for writer in self._writers:
                writer.close()


class Forwarder:
    """Takes connections on a port of its own and carries them to a target."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._target: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delay_seconds = 0.0

    async def start(self, host: str = "127.0.0.1") -> None:
        """Listen on any free port."""
        self._server = await asyncio.start_server(self._take, host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def aim(self, host: str, port: int) -> None:
        """Say where connections lead; those that came before have waited for it."""
        self._target.set_result((host, port))

    def delay(self, seconds: float) -> None:
        """Hold back every byte of every line, and of lines to come, for that long each way."""
        self._delay_seconds = seconds
        for line in self.lines:
            self._slow_down(line)

    async def close(self) -> None:
        """Stop listening and cut every line."""
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        line = Line()
        try:
            far = await asyncio.open_connection(*await asyncio.shield(self._target))
            self._slow_down(line)
            self.lines.append(line)
            await line.run((reader, writer), far)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()  # nobody there, or the forwarder is being closed
        finally:
            self._tasks.discard(task)
            if line in self.lines:
                self.lines.remove(line)

    def _slow_down(self, line: Line) -> None:
        for pipe in line.pipes():
            pipe.delay_seconds = self._delay_seconds
