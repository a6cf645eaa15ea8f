"""A record is believed for what its worker signed, under its topic, while its lease lasts."""

import math
from typing import Any

import msgspec
import pytest

from shared.errors import RecordError
from shared.records import (
    MAX_CLOCK_SKEW_SECONDS,
    MAX_RECORD_BYTES,
    directory_key,
    open_record,
    select,
    sign_announcement,
    validate,
)
from shared.swarm import Span
from tests.shared.announcing import ANN, BOB, NOW, TOPIC, announcement, record


def test_a_record_opens_to_what_was_announced():
    assert open_record(record(tokens_per_second=3.5)) == announcement(tokens_per_second=3.5)


def test_a_record_in_the_name_of_another_is_refused():
    forged = sign_announcement(BOB, announcement(ANN))
    with pytest.raises(RecordError, match="signature"):
        open_record(forged)


def test_a_record_with_any_byte_changed_is_refused():
    good = record()
    for index in range(len(good)):
        changed = good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :]
        with pytest.raises(RecordError):
            open_record(changed)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xc1", b"\x91" * 4000, b"\x92\xc4\x00\xc4\x00", bytes(MAX_RECORD_BYTES + 1)],
    ids=["empty", "invalid", "nested", "hollow", "oversized"],
)
def test_garbage_is_refused(garbage: bytes):
    with pytest.raises(RecordError):
        open_record(garbage)


def test_deep_nesting_in_an_unknown_field_is_refused():
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(announcement()))
    flat = msgspec.msgpack.encode({**fields, "new": 0})
    deep = flat[:-1] + b"\x91" * 3000 + b"\x90"
    signature = ANN.sign(b"bucket-brigade/announcement/1\0" + deep)
    with pytest.raises(RecordError, match="recursion"):
        open_record(msgspec.msgpack.encode([deep, signature]))


@pytest.mark.parametrize(
    "changes",
    [
        {"issued_at": math.nan},
        {"issued_at": math.inf},
        {"lease_seconds": math.nan},
        {"lease_seconds": 0.0},
        {"lease_seconds": 121.0},
        {"tokens_per_second": math.inf},
        {"sequence": -1},
        {"span": Span(16, 25)},
        {"next_span": Span(16, 25)},
        {"fits": -1},
        {"url": "http://127.0.0.1:9000"},
        {"url": "ws://"},
        {"url": "ws://[::1"},
        {"url": "ws://host:99999"},
        {"url": "ws://host/" + "x" * 512},
        {"url": ""},
        {"attached": ("gate",)},
        {"url": "", "attached": ("gate",) * 9},
        {"url": "", "attached": ("x" * 129,)},
        {"url": "", "attached": ("gate",), "certificate": bytes(32)},
    ],
    ids=str,
)
def test_an_announcement_that_makes_no_sense_is_refused(changes: dict[str, Any]):
    with pytest.raises(RecordError):
        open_record(record(**changes))


def test_a_record_counts_under_its_own_topic_only():
    assert validate(record(), topic=TOPIC, now=NOW).worker == ANN.peer
    with pytest.raises(RecordError, match="not 'test/other"):
        validate(record(), topic="test/other@abc123", now=NOW)


@pytest.mark.parametrize(
    ("now", "complaint"),
    [
        (NOW - MAX_CLOCK_SKEW_SECONDS - 1, "ahead of our clock"),
        (NOW - MAX_CLOCK_SKEW_SECONDS, None),
        (NOW + 12 + MAX_CLOCK_SKEW_SECONDS, None),
        (NOW + 12 + MAX_CLOCK_SKEW_SECONDS + 1, "expired"),
    ],
)
def test_clocks_may_differ_by_minutes_but_not_more(now: float, complaint: str | None):
    if complaint is None:
        validate(record(), topic=TOPIC, now=now)
        return
    with pytest.raises(RecordError, match=complaint):
        validate(record(), topic=TOPIC, now=now)


def test_the_higher_sequence_is_the_newer():
    old, new = announcement(sequence=1), announcement(sequence=2)
    assert select(old, new) == select(new, old) == new


def test_a_directory_key_is_a_sha256_multihash():
    assert directory_key(TOPIC)[:2] == b"\x12\x20"
    assert len(directory_key(TOPIC)) == 34
    assert directory_key(TOPIC) != directory_key(TOPIC + "x")
