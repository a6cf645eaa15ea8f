"""The barest relay there can be in Python: what no gateway on this interpreter is faster than.

uvloop, as many bytes and system calls a token as the gateway has, and nothing else: no HTTP to
parse, no session, no text to decode, no memory of what was said. Run as a program it is the relay;
`source` is what it stands before.
"""

import argparse
import asyncio
import json
import signal
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, cast

import uvloop

from gateway.api.sse import Chunks
from shared.swarm import Hop, PeerId, Span
from shared.wire.codec import encode
from shared.wire.messages import Step, Tokens
from tests.bench.relay import WORD, Made

PEER: Final = PeerId("12D3KooW" + 44 * "x")
STEP: Final = encode(
    Step(bytes(16), 1, PEER, 99, 1, (Hop(PEER, Span(0, 4)),), "int32", (99,), grants=(bytes(64),)),
    bytes(4),
)
TOKEN: Final = encode(Tokens(bytes(16), 1, 99, (7,)))
STREAM: Final = struct.Struct("<I")
"""Instead of what the frames would say: whose they are."""
HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _chunk(frame: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(frame), frame)


CHUNKS: Final = Chunks(
    answer_id="chatcmpl-" + 29 * "x",
    created=1_700_000_000,
    model="acme/tiny",
    fingerprint="fp_" + 10 * "0",
    with_usage=False,
)
SAID: Final = _chunk(CHUNKS.said(0, {"content": WORD}))
BEGUN: Final = HEAD + _chunk(CHUNKS.role(0))
ENDED: Final = _chunk(CHUNKS.end(["length"], {})) + b"0\r\n\r\n"


class Client(asyncio.Protocol):
    """One stream: asks the source for a token, and for the next when it has come."""

    def __init__(self, relay: "Relay") -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        body = data.partition(b"\r\n\r\n")[2]
        if not body:  # the health check of the bench
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        asked = json.loads(body)
        self.stream = int(asked["messages"][0]["content"])
        self.left = asked["max_tokens"]
        self.step = STREAM.pack(self.stream) + STEP[STREAM.size :]
        self.transport.write(BEGUN)
        self._relay.begin(self)

    def answered(self) -> bool:
        """Pass a token on; whether another is to be asked for."""
        self.transport.write(SAID)
        self.left -= 1
        if self.left:
            return True
        self.transport.write(ENDED)
        self.transport.close()
        return False


class Relay(asyncio.Protocol):
    """The link to the source, and all streams."""

    def __init__(self) -> None:
        self._clients: dict[int, Client] = {}
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def begin(self, client: Client) -> None:
        """Ask for the first token of a stream."""
        self._clients[client.stream] = client
        self._transport.write(client.step)

    def data_received(self, data: bytes) -> None:
        data, steps = self._tail + data, list[bytes]()
        whole = len(data) - len(data) % len(TOKEN)
        for at in range(0, whole, len(TOKEN)):
            client = self._clients[STREAM.unpack_from(data, at)[0]]
            if client.answered():
                steps.append(client.step)
        self._tail = data[whole:]
        if steps:
            self._transport.write(b"".join(steps))


class Source(asyncio.Protocol):
    """Answers each step with a token at once, and notes when."""

    def __init__(self, made: Made) -> None:
        self._made = made
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        data, tokens = self._tail + data, list[bytes]()
        whole = len(data) - len(data) % len(STEP)
        for at in range(0, whole, len(STEP)):
            self._made.now_sent(STREAM.unpack_from(data, at)[0])
            tokens.append(data[at : at + STREAM.size] + TOKEN[STREAM.size :])
        self._tail = data[whole:]
        self._transport.write(b"".join(tokens))


@asynccontextmanager
async def source(made: Made) -> AsyncGenerator[int, None]:
    """What makes the tokens, on any free port."""
    server = await asyncio.get_running_loop().create_server(lambda: Source(made), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def relay(port: int, source_port: int) -> None:
    """Serve until told to stop."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    _, link = await loop.create_connection(Relay, "127.0.0.1", source_port)
    server = await loop.create_server(
        lambda: Client(link), "127.0.0.1", port, family=socket.AF_INET, backlog=4096
    )
    async with server:
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=int, help="the port of what makes the tokens")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvloop.run(relay(options.port, options.source))


if __name__ == "__main__":
    main()
