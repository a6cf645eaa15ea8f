"""The two ends that a relay stands between: what makes tokens, and a thousand readers.

Both run in one process with one clock, so that what a token's way took can be told. Tokens are
made on a swarm's worker whose answers are scripted, or by an OpenAI-compatible upstream that says
the same; the readers know nothing but the bytes of HTTP.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.asyncio.server import serve

from shared.discovery.directory import MemoryDirectory
from shared.swarm import Span, topic_of
from shared.wire.codec import Frame, pack_ids
from shared.wire.link import SERVER_OPTIONS, Link
from shared.wire.messages import Close, Status, Step, Tokens
from tests.fakes import chat_text, tokens_of
from tests.scripted_worker import SPEC, SWARM, ScriptedWorker

WORD = "a"
TOPIC = topic_of(SWARM, SPEC.name, SPEC.revision)


@dataclass
class Made:
    """When each stream's tokens were made, and when its reader had them."""

    sent: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    seen: dict[int, list[float]] = field(default_factory=dict[int, list[float]])

    def now_sent(self, stream: int) -> None:
        self.sent.setdefault(stream, []).append(time.perf_counter())

    @property
    def num_seen(self) -> int:
        """How many tokens the readers have."""
        return sum(map(len, self.seen.values()))

    @property
    def delays(self) -> list[float]:
        """What each token's way took, in order of size."""
        ways = (
            seen - sent
            for stream, times in self.seen.items()
            for sent, seen in zip(self.sent.get(stream, ()), times, strict=False)
        )
        return sorted(ways)


def content_of(stream: int) -> str:
    """What the reader of a stream asks; its maker knows the stream by it."""
    return f"{stream:06d}"


class PacedWorker(ScriptedWorker):
    """Answers each step `pause` seconds after it came, and notes when."""

    def __init__(self, made: Made, num_streams: int, pause: float) -> None:
        super().__init__(Span(0, SPEC.num_blocks))
        text = chat_text()
        self._made = made
        self._pause = pause
        self._token = tokens_of(WORD)[0]
        self._streams = {
            pack_ids(text.render([{"role": "user", "content": content_of(stream)}])): stream
            for stream in range(num_streams)
        }
        self._sessions: dict[bytes, int] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator["PacedWorker"]:
        """Listen on any free port."""
        async with serve(self.pool.accept, "127.0.0.1", 0, **SERVER_OPTIONS) as server:
            self.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            yield self
            await self.pool.close()

    def _on_frame(self, link: Link, frame: Frame) -> None:
        match frame.message:
            case Step() as step:
                if step.position == 0:
                    self._sessions[step.session] = self._streams[bytes(frame.payload)]
                if self._pause:
                    asyncio.get_running_loop().call_later(self._pause, self._answer, link, step)
                else:
                    self._answer(link, step)
            case Close(session=session):
                self._sessions.pop(session, None)
            case _:
                link.post(Status(sessions=0, queued_steps=0, pages_free=1, pages_total=1))

    def _answer(self, link: Link, step: Step) -> None:
        stream = self._sessions.get(step.session)
        if stream is not None and step.sample and link.is_open:
            self._made.now_sent(stream)
            ids = (self._token,)
            link.post(Tokens(step.session, step.epoch, step.sample[0] + 1, ids))


@asynccontextmanager
async def upstream(made: Made, num_tokens: int, pause: float) -> AsyncGenerator[str]:
    """An OpenAI-compatible server that says as much as the worker would; its base URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"POST"):  # a proxy looks whether it is there
                    writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    continue
                body = json.loads(await _body(reader, head.lower()))
                await _stream(writer, made, int(body["messages"][0]["content"]), num_tokens, pause)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"transfer-encoding: chunked" not in head:
        size = head.partition(b"content-length:")[2].split(b"\r\n")[0]
        return await reader.readexactly(int(size))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


async def _stream(
    writer: asyncio.StreamWriter, made: Made, stream: int, num_tokens: int, pause: float
) -> None:
    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        data = b"data: " + json.dumps(event | {"choices": [choice]}).encode() + b"\n\n"
        return b"%x\r\n%s\r\n" % (len(data), data)

    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    writer.write(chunk({"role": "assistant", "content": ""}))
    said = chunk({"content": WORD})
    for _ in range(num_tokens):
        if pause:
            await asyncio.sleep(pause)
        made.now_sent(stream)
        writer.write(said)
        await writer.drain()
    writer.write(chunk({}, "length") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    await writer.drain()


class Reader(asyncio.Protocol):
    """One client: asks once, and notes when each piece of text comes."""

    def __init__(self, made: Made, stream: int, model: str, num_tokens: int, key: str) -> None:
        body = json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": content_of(stream)}],
                "max_tokens": num_tokens,
                "stream": True,
            }
        ).encode()
        self._request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
            b"content-type: application/json\r\nauthorization: Bearer %s\r\n"
            b"content-length: %d\r\n\r\n%s" % (key.encode(), len(body), body)
        )
        self._seen = made.seen.setdefault(stream, [])
        self._tail = b""
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.is_whole = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        mark = b'"content":"a"'
        text = self._tail + data
        self._seen.extend([now] * text.count(mark))
        self.is_whole = self.is_whole or b"[DONE]" in text
        cut = text.rfind(mark)
        self._tail = text[max(cut + len(mark) if cut >= 0 else 0, len(text) - len(mark)) :]
        if self._seen:
            self.begun.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.begun.set()
        self.ended.set()


async def announcement_of(worker: ScriptedWorker) -> bytes:
    """What the worker says of itself, signed; the link that it leads to outlives it."""
    directory = MemoryDirectory(time.monotonic)
    await worker.announce(directory, lease_seconds=120)
    (sighting,) = await directory.lookup(TOPIC)
    return sighting.record
