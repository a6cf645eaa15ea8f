"""Message and payload to one binary frame and back. Pure.

A frame is a u32 little-endian header length, the msgpack header, then the payload bytes, which
nothing here looks into.
"""

import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from shared.errors import ProtocolError
from shared.wire.messages import AnyMessage, Message

MAX_FRAME_BYTES: Final = 64 << 20
MAX_HEADER_BYTES: Final = 2 << 20
_LENGTH: Final = struct.Struct("<I")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AnyMessage).decode


class Frame(NamedTuple):
    """A message and the bytes that came with it."""

    message: AnyMessage
    payload: memoryview


def encode(message: Message, payload: bytes | memoryview = b"") -> bytes:
    """One frame. Raises ProtocolError when it would be larger than a peer accepts."""
    header = _encode(message)
    size = _LENGTH.size + len(header) + len(payload)
    if size > MAX_FRAME_BYTES:
        raise ProtocolError(f"frame of {size} bytes is over {MAX_FRAME_BYTES}")
    return b"".join((_LENGTH.pack(len(header)), header, payload))


def decode(frame: bytes | memoryview) -> Frame:
    """The message and payload of a frame, the payload uncopied. Raises ProtocolError."""
    view = memoryview(frame)
    if len(view) < _LENGTH.size:
        raise ProtocolError(f"frame of {len(view)} bytes holds no header length")
    (length,) = _LENGTH.unpack_from(view)
    body = _LENGTH.size + length
    if length > MAX_HEADER_BYTES or body > len(view):
        raise ProtocolError(f"header of {length} bytes does not fit a frame of {len(view)} bytes")
    try:
        message = _decode(view[_LENGTH.size : body])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # RecursionError: msgspec's, for deep nesting in a field that it would have skipped
        raise ProtocolError(f"header is no message: {error}") from error
    return Frame(message, view[body:])


def pack_ids(token_ids: Iterable[int]) -> bytes:
    """Token ids as they travel: little-endian int32."""
    ids = array("i", token_ids)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()
