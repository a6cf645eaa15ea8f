"""Announcements as signed bytes, and what to believe of them. Pure.

A record is msgpack of (announcement bytes, signature). The signature covers a domain and the
announcement's bytes; its key is the one inside the announcement's peer id, so a record needs
nothing else to be checked.
"""

import hashlib
import math
from urllib.parse import urlsplit

import msgspec

from shared.errors import ProtocolError, RecordError
from shared.identity import Identity, verify
from shared.swarm import Announcement

MAX_RECORD_BYTES = 4096
MAX_CLOCK_SKEW_SECONDS = 300.0
CERTIFICATE_BYTES = 32
_DOMAIN = b"bucket-brigade/announcement/1\0"


class _Record(msgspec.Struct, frozen=True, array_like=True):
    body: bytes
    signature: bytes


_decode_record = msgspec.msgpack.Decoder(_Record).decode
_decode_announcement = msgspec.msgpack.Decoder(Announcement).decode


def sign_announcement(identity: Identity, announcement: Announcement) -> bytes:
    """The record of an announcement, signed by the worker it speaks of."""
    body = msgspec.msgpack.encode(announcement)
    return msgspec.msgpack.encode(_Record(body, identity.sign(_DOMAIN + body)))


def open_record(record: bytes) -> Announcement:
    """The announcement in a record whose signature holds. Raises RecordError. Looks at no clock."""
    if len(record) > MAX_RECORD_BYTES:
        raise RecordError(f"record of {len(record)} bytes is over {MAX_RECORD_BYTES}")
    try:
        opened = _decode_record(record)
        announcement = _decode_announcement(opened.body)
        verify(announcement.worker, _DOMAIN + opened.body, opened.signature)
    except (msgspec.MsgspecError, ValueError, ProtocolError, RecursionError) as error:
        # RecursionError: msgspec's, for deep nesting in a field that it would have skipped
        raise RecordError(f"record does not open: {error}") from error
    _check_sense(announcement)
    return announcement


def read_unchecked(record: bytes) -> Announcement:
    """What a record says, whoever signed it. Raises RecordError when it does not decode."""
    try:
        return _decode_announcement(_decode_record(record).body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RecordError(f"record does not open: {error}") from error


def validate(record: bytes, *, topic: str, now: float) -> Announcement:
    """The announcement in a record that may be believed at `now` under `topic`.

    Raises RecordError when it is forged, expired, from the future or for another topic.
    """
    announcement = open_record(record)
    if announcement.topic != topic:
        raise RecordError(f"record is for {announcement.topic!r}, not {topic!r}")
    if announcement.issued_at > now + MAX_CLOCK_SKEW_SECONDS:
        raise RecordError(
            f"record of {announcement.worker} is {announcement.issued_at - now:.0f} s ahead of our "
            "clock; one of the two clocks is wrong"
        )
    if announcement.expires_at + MAX_CLOCK_SKEW_SECONDS < now:
        raise RecordError(
            f"record of {announcement.worker} has expired "
            f"{now - announcement.expires_at:.0f} s ago by our clock; if it is "
            "announced still, one of the two clocks is wrong"
        )
    return announcement


def select(one: Announcement, other: Announcement) -> Announcement:
    """The newer of two announcements of the same worker."""
    return one if one.sequence >= other.sequence else other


def directory_key(topic: str) -> bytes:
    """The DHT key of a topic: a sha2-256 multihash, which Kademlia's FIND_NODE takes as it is."""
    return b"\x12\x20" + hashlib.sha256(b"bucket-brigade/topic/1\0" + topic.encode()).digest()


def _check_sense(announcement: Announcement) -> None:
    if announcement.span.end > announcement.num_blocks:
        raise RecordError(
            f"{announcement.worker} announces blocks {announcement.span} "
            f"of a model of {announcement.num_blocks}"
        )
    if announcement.next_span and announcement.next_span.end > announcement.num_blocks:
        raise RecordError(
            f"{announcement.worker} is about to host blocks {announcement.next_span} "
            f"of a model of {announcement.num_blocks}"
        )
    if not math.isfinite(announcement.issued_at + announcement.tokens_per_second):
        raise RecordError(f"{announcement.worker} announces a number that is none")
    if announcement.attached and announcement.url:
        raise RecordError(f"{announcement.worker} is attached to gateways and has an address")
    if not (announcement.attached or _is_websocket_url(announcement.url)):
        raise RecordError(f"{announcement.worker} announces no WebSocket address")
    if len(announcement.certificate) not in (0, CERTIFICATE_BYTES) or (
        announcement.certificate and not announcement.url.startswith("wss:")
    ):
        raise RecordError(f"{announcement.worker} announces a certificate that cannot be")


def _is_websocket_url(url: str) -> bool:
    try:
        address = urlsplit(url)
        return address.scheme in ("ws", "wss") and bool(address.hostname) and address.port != 0
    except ValueError:
        return False  # e.g. a bracket without its pair, or a port over 65535
