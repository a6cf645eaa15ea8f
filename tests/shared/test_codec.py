"""A message and its payload survive the wire; anything else is a ProtocolError."""

import contextlib
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.swarm import Hop, PeerId, Span
from shared.wire.codec import MAX_FRAME_BYTES, MAX_HEADER_BYTES, decode, encode
from shared.wire.messages import (
    MAX_POSITION,
    MAX_STEP_TOKENS,
    Checkpoint,
    Close,
    DialBack,
    DialledBack,
    Filled,
    Hello,
    Introduce,
    Message,
    Proof,
    Reading,
    Refused,
    Relay,
    Sampling,
    SamplingContext,
    Scores,
    Scoring,
    States,
    Status,
    Step,
    TokenLogprobs,
    Tokens,
)

SESSION = b"s" * 16
ANN, BOB = PeerId("ann"), PeerId("bob")
HOPS = (Hop(ANN, Span(0, 8)), Hop(BOB, Span(8, 16)))
STEP = Step(SESSION, 1, BOB, 5, 3, HOPS, "int32", (7,), b"context", True)
MESSAGES: list[Message] = [
    Hello(ANN, "swarm", bytes(32)),
    Proof(bytes(64)),
    STEP,
    msgspec.structs.replace(STEP, sample=(), read=Reading("states", (5, 7), (0, 16))),
    States(SESSION, 1, 16, (5, 7), "bfloat16", 64),
    Checkpoint(SESSION, 1, 8, 5, 3, "bfloat16"),
    Tokens(SESSION, 1, 8, (1, 2)),
    Tokens(SESSION, 1, 8, (1,), (TokenLogprobs(-0.5, (7, 1), (-0.25, -0.5)),)),
    Scores(SESSION, 1, 4, (TokenLogprobs(-0.5, rank=1), TokenLogprobs(-9.0, (7,), (-0.1,), 299))),
    Filled(SESSION, 1, 16, 8),
    Refused(SESSION, 1, ANN, "position_gap", "why", 4, BOB),
    Introduce((b"record",)),
    Introduce((b"record",), dial=True),
    Relay(SESSION, 1, BOB),
    DialBack(b"record"),
    DialledBack("elsewhere", "192.0.2.7"),
    Status(1, 2, 3, 4, leaving=True, decode_seconds=0.5),
    Close(SESSION),
]


def frame_of(header: object, payload: bytes = b"") -> bytes:
    """A frame with any header, valid or not."""
    body = header if isinstance(header, bytes) else msgspec.msgpack.encode(header)
    return struct.pack("<I", len(body)) + body + payload


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_and_its_payload_come_back_as_they_were(message: Message):
    frame = decode(encode(message, b"payload"))
    assert frame.message == message
    assert bytes(frame.payload) == b"payload"


def test_a_frame_is_header_length_header_payload():
    header = msgspec.msgpack.encode(Close(SESSION))
    assert msgspec.msgpack.decode(header)["type"] == "close"
    assert encode(Close(SESSION), b"xyz") == struct.pack("<I", len(header)) + header + b"xyz"


def test_fields_of_a_later_version_are_skipped():
    header = {"type": "close", "session": SESSION, "reason": ["new", {"in": 2}]}
    assert decode(frame_of(header)).message == Close(SESSION)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x01\x00\x00",
        struct.pack("<I", 1),
        struct.pack("<I", 0),
        struct.pack("<I", 0xFFFFFFFF) + b"x",
        struct.pack("<I", MAX_HEADER_BYTES + 1) + bytes(MAX_HEADER_BYTES + 1),
        frame_of(b"\xc1"),
        frame_of(msgspec.msgpack.encode({"type": "close", "session": SESSION}) + b"\x00"),
        frame_of([1, 2]),
        frame_of({"type": "gossip"}),
        frame_of({"session": SESSION}),
        frame_of({"type": "close"}),
        frame_of({"type": "close", "session": "text"}),
        frame_of(
            b"\x83\xa4type\xa5close\xa7session\xc4\x10" + SESSION + b"\xa1x" + b"\x91" * 99999
        ),
        frame_of(b"\x81\xa4type\xa2\xff\xfe"),
    ],
)
def test_what_is_no_message_is_a_protocol_error(frame: bytes):
    with pytest.raises(ProtocolError):
        decode(frame)


@pytest.mark.parametrize(
    "change",
    [
        {"position": -1},
        {"position": MAX_POSITION + 1},
        {"position": (1 << 64) - 1},
        {"count": 0},
        {"count": MAX_STEP_TOKENS + 1},
        {"epoch": 1 << 32},
        {"session": b"short"},
        {"hops": []},
        {"hops": [["ann", [8, 8]]]},
        {"hops": [["ann", [-1, 8]]]},
        {"hops": [["ann", [0, 8]]] * 257},
        {"dtype": "float64"},
        {"sample": [MAX_POSITION + 1]},
        {"context": bytes((1 << 20) + 1)},
        {"gateway": "g" * 129},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_field_out_of_its_bounds_is_a_protocol_error(change: dict[str, object]):
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(STEP))
    assert decode(frame_of(fields)).message == STEP
    with pytest.raises(ProtocolError):
        decode(frame_of(fields | change))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 2.1])
def test_a_temperature_that_is_none_does_not_decode(value: float):
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"temperature": value}), type=Sampling)


@pytest.mark.parametrize(
    "change",
    [
        {"top_k": -1},
        {"min_p": 1.1},
        {"presence_penalty": 2.1},
        {"frequency_penalty": float("nan")},
        {"repetition_penalty": 0.0},
        {"logit_bias": [[1, 101.0]]},
        {"logit_bias": [[-1, 1.0]]},
        {"logit_bias": [[1, 1.0]] * 1025},
        {"num_logprobs": 21},
        {"num_prompt_logprobs": 21},
        {"stop_ids": [1] * 257},
        {"min_tokens": MAX_POSITION + 1},
        {"grammar": {"kind": "regex", "text": ""}},
        {"grammar": {"kind": "regex", "text": "a" * ((1 << 16) + 1)}},
        {"grammar": {"kind": "python", "text": "a"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_sampling_out_of_its_bounds_does_not_decode(change: dict[str, object]):
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(change), type=Sampling)


@pytest.mark.parametrize(
    "change",
    [
        {"position": 0},
        {"token_ids": b""},
        {"token_ids": bytes(4 * MAX_STEP_TOKENS + 4)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_scoring_out_of_its_bounds_does_not_decode(change: dict[str, object]):
    scoring = {"position": 1, "token_ids": bytes(4)}
    decode_context = msgspec.msgpack.Decoder(SamplingContext).decode
    context = SamplingContext(Sampling(), scoring=Scoring(1, bytes(4)))
    assert decode_context(msgspec.msgpack.encode({"sampling": {}, "scoring": scoring})) == context
    with pytest.raises(msgspec.ValidationError):
        decode_context(msgspec.msgpack.encode({"sampling": {}, "scoring": scoring | change}))


def test_sampling_says_only_what_differs_from_the_defaults():
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Sampling(seed=5))) == {"seed": 5}


@pytest.mark.parametrize("value", [float("nan"), 0.1, -10_000.0])
def test_a_logprob_that_is_none_does_not_decode(value: float):
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode([value]), type=TokenLogprobs)


def test_a_frame_no_peer_would_take_is_not_made():
    with pytest.raises(ProtocolError, match="over"):
        encode(Close(SESSION), bytes(MAX_FRAME_BYTES))


def decodes_or_protocol_error(frame: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode(frame)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(frame: bytes):
    decodes_or_protocol_error(frame)
    decodes_or_protocol_error(frame_of(frame))


@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_frame_never_raises_anything_else(message: Message, data: st.DataObject):
    frame = bytearray(encode(message, b"pay"))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_protocol_error(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
