"""What a holder of announcements and its callers say to each other. Pure.

One frame: u32 little-endian length, then one msgpack map. One request, one reply, in order. Fields
are added with a default, never renamed or reused.
"""

from typing import Annotated

import msgspec

from shared.errors import ProtocolError
from shared.records import MAX_RECORD_BYTES

MAX_TOPIC_LENGTH = 514
"""The longest swarm, model and revision of an announcement, and the two signs between them."""
MAX_REQUEST_BYTES = 8 << 10
MAX_REPLY_BYTES = 1 << 20
MAX_HELD_PER_REPLY = 2048

Topic = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TOPIC_LENGTH)]
Record = Annotated[bytes, msgspec.Meta(max_length=MAX_RECORD_BYTES)]
Mark = Annotated[bytes, msgspec.Meta(max_length=16)]
Cursor = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Put(msgspec.Struct, frozen=True, tag="put"):
    """Keep this record."""

    topic: Topic
    record: Record


class Get(msgspec.Struct, frozen=True, tag="get"):
    """What arrived under a topic since `cursor` on the shelf called `mark`?"""

    topic: Topic
    mark: Mark = b""
    cursor: Cursor = 0


Request = Put | Get


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """The record, or a newer one of the same worker, is kept."""


class NotTaken(msgspec.Struct, frozen=True, tag="not_taken"):
    """The record is not kept, and why."""

    reason: Annotated[str, msgspec.Meta(max_length=1024)]


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A record and for how long it still counts."""

    record: Record
    remaining_seconds: Annotated[float, msgspec.Meta(ge=0, le=120)]


class Page(msgspec.Struct, frozen=True, tag="page"):
    """Records in the order of arrival; ask again with `cursor` at once unless `is_last`."""

    mark: Mark
    cursor: Cursor
    is_last: bool
    held: Annotated[list[Held], msgspec.Meta(max_length=MAX_HELD_PER_REPLY)]


Reply = Taken | NotTaken | Page

encode = msgspec.msgpack.encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def decode_request(frame: bytes) -> Request:
    """Raises ProtocolError unless the frame is a request."""
    try:
        return _decode_request(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"request does not decode: {error}") from error


def decode_reply(frame: bytes) -> Reply:
    """Raises ProtocolError unless the frame is a reply."""
    try:
        return _decode_reply(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"reply does not decode: {error}") from error
