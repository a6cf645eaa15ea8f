"""Small frames that wait for one WebSocket, as one message of it.

A frame of a step is far smaller than what a message costs both ends: to mask and to parse it, to
look at the connection's state, to wake for each. Who takes bundles says so when the WebSocket is
opened, by its subprotocol; others get a message for each frame. A message that begins with what
no frame begins with, a header length beyond all bounds, is a bundle: after the mark each frame's
length as u32, little-endian, and the frame.
"""

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from websockets.asyncio.connection import Connection
from websockets.typing import Subprotocol

from shared.errors import ProtocolError

BUNDLES: Final = Subprotocol("brigade.bundles")
MAX_BUNDLE_BYTES: Final = 64 << 10
"""Of the frames in a bundle, which are read in one turn of the event loop."""
_MARK: Final = b"\xff\xff\xff\xff"
_LENGTH: Final = struct.Struct("<I")


def choose(_: Connection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """What a listener agrees to of what a dialler offers."""
    return BUNDLES if BUNDLES in offered else None


def take_bundle(unsent: deque[bytes]) -> list[bytes]:
    """The frames that go next, in their order: one, and after it what still fits a bundle."""
    bundle = [unsent.popleft()]
    room = MAX_BUNDLE_BYTES - len(bundle[0])
    while unsent and len(unsent[0]) <= room:
        room -= len(unsent[0])
        bundle.append(unsent.popleft())
    return bundle


async def send_bundle(socket: Connection, bundle: Sequence[bytes]) -> None:
    """Raises ConnectionClosed."""
    if len(bundle) > 1 and socket.subprotocol == BUNDLES:
        await socket.send(bundled(bundle))
        return
    for frame in bundle:
        await socket.send(frame)


def bundled(frames: Sequence[bytes]) -> bytes:
    """Some frames as one message."""
    parts = [_MARK]
    for frame in frames:
        parts += (_LENGTH.pack(len(frame)), frame)
    return b"".join(parts)


def frames_of(message: bytes) -> Iterator[bytes]:
    """The frames in a message. Raises ProtocolError, when it comes to what is none.

    Each is a copy, so that who keeps a few bytes of one keeps no more than it.
    """
    if not message.startswith(_MARK):
        yield message
        return
    if len(message) > 2 * MAX_BUNDLE_BYTES:  # no length takes more than its frame
        raise ProtocolError(f"bundle of {len(message)} bytes is over {2 * MAX_BUNDLE_BYTES}")
    at = len(_MARK)
    while at < len(message):
        begin = at + _LENGTH.size
        if begin > len(message):
            raise ProtocolError(f"bundle ends within a length, at {len(message)} bytes")
        (length,) = _LENGTH.unpack_from(message, at)
        at = begin + length
        if at > len(message):
            raise ProtocolError(f"frame to {at} of a bundle of {len(message)} bytes")
        yield message[begin:at]
