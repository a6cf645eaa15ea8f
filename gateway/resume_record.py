"""What must be known of an answer to go on with it on any replica, as bytes. Pure.

A record is a head and then the tokens in order, each a u32 little-endian length and msgpack. It
only grows, so that writers append. What follows the last whole part is ignored.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import msgspec

from gateway.generator import Token
from shared.wire.messages import Sampling

LENGTH: Final = struct.Struct("<I")
EVENT_ID: Final = re.compile(r"([A-Za-z0-9_-]{32}):(0|[1-9]\d{0,8}|finish|usage)", re.ASCII)

_encoder: Final = msgspec.msgpack.Encoder()
_tokens: Final = msgspec.msgpack.Decoder(Token)


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request that was accepted, and all that was decided about its answer.

    `caller` and `body_digest` say who may come back for it, and with which request. `prompt` is
    int32 token ids, `body` the request's JSON object.
    """

    caller: str
    body_digest: bytes
    body: bytes
    answer_id: str
    created: int
    prompt: bytes
    max_tokens: int
    stop_ids: tuple[int, ...]
    sampling: Sampling

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt's token ids."""
        return unpack_ids(self.prompt)


@dataclass(frozen=True)
class Record:
    """An answer's head and the tokens that were made so far."""

    head: Head
    tokens: tuple[Token, ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """What a generation has to go on after."""
        return tuple(token.token_id for token in self.tokens)

    @classmethod
    def decode(cls, raw: bytes) -> Self | None:
        """None when these bytes are no record, as after a change of its form."""
        parts = _parts(raw)
        try:
            head = msgspec.msgpack.decode(next(parts), type=Head)
            return cls(head, tuple(map(_tokens.decode, parts)))
        except (StopIteration, msgspec.MsgspecError):
            return None


Seen = int | Literal["finish", "usage"]
"""How far a client has come: how much it has of what is said, or one of the two closing events."""


@dataclass(frozen=True)
class EventId:
    """Names an event of a stream, and with it everything before it."""

    stream: str
    seen: Seen

    def __str__(self) -> str:
        return f"{self.stream}:{self.seen}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what was never one of ours."""
        match = EVENT_ID.fullmatch(text.strip())
        if match is None:
            return None
        stream, seen = match.groups()
        if seen == "finish" or seen == "usage":
            return cls(stream, seen)
        return cls(stream, int(seen))


def encode_head(head: Head) -> bytes:
    """The beginning of a record."""
    return _part(head)


def encode_token(token: Token) -> bytes:
    """One more token of a record; only what is not as usual is written."""
    return _part(token)


def digest_of(body: Mapping[str, Any]) -> bytes:
    """The same for bodies that say the same, however they are written."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()


def unpack_ids(packed: bytes) -> tuple[int, ...]:
    """What shared.wire.codec.pack_ids packed."""
    return struct.unpack(f"<{len(packed) // 4}i", packed)


def _part(value: Any) -> bytes:
    raw = _encoder.encode(value)
    return LENGTH.pack(len(raw)) + raw


def _parts(raw: bytes) -> Iterator[bytes]:
    view = memoryview(raw)
    while len(view) >= LENGTH.size:
        (size,) = LENGTH.unpack_from(view)
        if len(view) < LENGTH.size + size:
            return
        yield bytes(view[LENGTH.size : LENGTH.size + size])
        view = view[LENGTH.size + size :]
