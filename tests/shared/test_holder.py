"""A holder answers every request that decodes, and decodes nothing that could hurt it."""

import pytest

from shared.discovery.holder import Holder
from shared.discovery.holder_messages import (
    Get,
    Held,
    NotTaken,
    Page,
    Put,
    Taken,
    decode_reply,
    decode_request,
    encode,
)
from shared.discovery.shelf import Shelf
from shared.errors import ProtocolError
from shared.records import MAX_RECORD_BYTES, sign_announcement
from tests.shared.announcing import ANN, BOB, NOW, TOPIC, Clock, announcement, record


def holder() -> Holder:
    return Holder(Shelf(clock=Clock(NOW), monotonic=Clock()))


def test_what_was_put_can_be_got():
    h = holder()
    assert h.answer(Put(TOPIC, record())) == Taken()
    page = h.answer(Get(TOPIC))
    assert isinstance(page, Page)
    assert page.held == [Held(record(), 12.0)]


def test_putting_a_record_twice_is_no_failure():
    h = holder()
    assert h.answer(Put(TOPIC, record(sequence=2))) == Taken()
    assert h.answer(Put(TOPIC, record(sequence=2))) == Taken()
    assert h.answer(Put(TOPIC, record(sequence=1))) == Taken()  # it has a newer one


@pytest.mark.parametrize(
    ("topic", "raw", "reason"),
    [
        (TOPIC, sign_announcement(BOB, announcement(ANN)), "signature"),
        (TOPIC, record(issued_at=NOW - 1000), "expired"),
        (TOPIC, record(issued_at=NOW + 1000), "ahead of our clock"),
        (TOPIC, bytes(MAX_RECORD_BYTES), "does not open"),
        ("test/other@abc123", record(), "record is for"),
    ],
    ids=["forged", "expired", "future", "garbage", "other topic"],
)
def test_a_record_not_to_be_believed_is_not_taken(topic: str, raw: bytes, reason: str):
    h = holder()
    reply = h.answer(Put(topic, raw))
    assert isinstance(reply, NotTaken)
    assert reason in reply.reason
    page = h.answer(Get(topic))
    assert isinstance(page, Page)
    assert page.held == []


@pytest.mark.parametrize("message", [Put(TOPIC, b"x"), Get(TOPIC, b"mark", 7)], ids=str)
def test_requests_survive_the_wire(message: Put | Get):
    assert decode_request(encode(message)) == message


@pytest.mark.parametrize(
    "message", [Taken(), NotTaken("full"), Page(b"m", 3, True, [Held(b"r", 1.5)])], ids=str
)
def test_replies_survive_the_wire(message: Taken | NotTaken | Page):
    assert decode_reply(encode(message)) == message


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        encode(Taken()),
        encode(Put("t" * 600, b"")),
        encode(Put(TOPIC, bytes(MAX_RECORD_BYTES + 1))),
        encode(Get(TOPIC, bytes(17))),
        encode(Get(TOPIC, b"", -1)),
        b"\x82\xa4type\xa3get\xa1z" + b"\x91" * 8000,
    ],
    ids=["empty", "invalid", "reply", "topic", "record", "mark", "cursor", "nested"],
)
def test_requests_out_of_bounds_do_not_decode(frame: bytes):
    with pytest.raises(ProtocolError):
        decode_request(frame)
