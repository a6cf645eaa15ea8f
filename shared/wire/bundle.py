"""Frames that wait for one WebSocket, handed to it some at a time.

A frame of a step is far smaller than what it costs to send it: to look at the connection's state,
to wait until it has room, to wake for each.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from websockets.asyncio.connection import Connection
from websockets.protocol import State

MAX_BUNDLE_BYTES: Final = 64 << 10


def take_bundle(unsent: deque[bytes]) -> list[bytes]:
    """The frames that go next, in their order: one, and after it what still fits a bundle."""
    bundle = [unsent.popleft()]
    room = MAX_BUNDLE_BYTES - len(bundle[0])
    while unsent and len(unsent[0]) <= room:
        room -= len(unsent[0])
        bundle.append(unsent.popleft())
    return bundle


async def send_bundle(socket: Connection, bundle: Sequence[bytes]) -> None:
    """As `socket.send` of each, but writing and waiting for room only once or twice.

    Raises ConnectionClosed.
    """
    *first, last = bundle
    if first and socket.protocol.state is State.OPEN:  # else `send` raises below
        for frame in first:
            socket.protocol.send_binary(frame)
        socket.transport.write(b"".join(socket.protocol.data_to_send()))
    await socket.send(last)
