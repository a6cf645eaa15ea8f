"""Feeds damaged and invented bytes to all that parses strangers' words, and sees what they raise.

`python -m tests.fuzz --inputs 1000000 --seed 7`: the seed is printed, and each input follows from
it and its number, so that what is found can be run again.
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from shared.discovery.holder_messages import Get, Put, decode_reply, decode_request
from shared.discovery.shelf import Shelf
from shared.errors import BrigadeError, StepRefused
from shared.identity import verify
from shared.records import open_record, read_unchecked
from shared.secret import SwarmSecret
from shared.swarm import PeerId, SessionId, Span
from shared.wire.codec import decode, encode
from shared.wire.handshake import Handshake
from shared.wire.messages import Hello, Proof, SamplingContext, Step
from tests.shared.announcing import ANN, BOB, NOW, TOPIC, record
from tests.shared.test_codec import MESSAGES, STEP
from worker.sessions import Sessions

SLOW_SECONDS = 0.5
SECRET = SwarmSecret("a secret for fuzzing", "test")
INTERESTING = (
    b"\x00",
    b"\xff",
    b"\xc1",
    b"\x80",
    b"\x90",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff",
)
decode_context = msgspec.msgpack.Decoder(SamplingContext).decode


class Target(NamedTuple):
    """A parser, what it takes when all is well, and what it may raise when not."""

    feed: Callable[[bytes], object]
    samples: Sequence[bytes]
    allowed: tuple[type[Exception], ...] = (BrigadeError,)


def shake(frame: bytes) -> None:
    """A handshake's listener, with and without a secret, hears a frame after a true Hello."""
    message = decode(frame).message
    for secret in (None, SECRET):
        listener = Handshake(BOB, "home", "listener", nonce=bytes(32), secret=secret)
        if isinstance(message, Proof):
            listener.receive(Hello(ANN.peer, "home", bytes(32), is_private=secret is not None))
        listener.receive(message)


def admit(frame: bytes) -> None:
    """A worker's sessions take any step that decodes, and stay within their bounds."""
    message = decode(frame).message
    sessions = Sessions(Span(0, 8), pages_total=9, page_tokens=16, max_sessions=2, lease_seconds=9)
    for gateway in (PeerId("other"), PeerId("third")) if isinstance(message, Step) else ():
        try:
            sessions.admit(msgspec.structs.replace(message, gateway=gateway), 0.0)
            sessions.close(SessionId(message.session), gateway, message.epoch)
        except StepRefused:
            pass
    assert 0 <= sessions.pages_free <= 9
    assert len(sessions) <= 2


def put(raw: bytes) -> None:
    """A holder's shelf takes or refuses a record."""
    Shelf(clock=lambda: NOW, monotonic=lambda: 0.0).put(TOPIC, raw)


def verify_text(raw: bytes) -> None:
    """A peer id of any text."""
    verify(PeerId(raw[:128].decode("latin-1")), b"", bytes(64))


_FRAMES = [encode(message, b"payload") for message in MESSAGES]
_RECORDS = [record(ANN), record(BOB, sealed=b"s" * 50, leaving=True)]
_CONTEXTS = [
    msgspec.msgpack.encode(one)
    for one in (
        {"sampling": {"temperature": 0.5, "logit_bias": [[1, 2.0]], "top_p": 0.5}, "start": 3},
        {"sampling": {"grammar": {"kind": "regex", "text": "a+"}}, "generated": bytes(8)},
    )
]
TARGETS: dict[str, Target] = {
    "frame": Target(decode, _FRAMES),
    "handshake": Target(shake, [encode(m) for m in MESSAGES if isinstance(m, Hello | Proof)]),
    "step": Target(admit, [encode(STEP)]),
    "record": Target(open_record, _RECORDS),
    "veil": Target(read_unchecked, _RECORDS),
    "shelf": Target(put, _RECORDS),
    "box": Target(lambda raw: SECRET.unseal(raw, context=b""), [SECRET.seal(b"x", context=b"")]),
    "request": Target(
        decode_request,
        [msgspec.msgpack.encode(Get(TOPIC)), msgspec.msgpack.encode(Put(TOPIC, _RECORDS[0]))],
    ),
    "reply": Target(decode_reply, [msgspec.msgpack.encode({"type": "taken"})]),
    "peer id": Target(verify_text, [ANN.peer.encode()]),
    "context": Target(
        decode_context, _CONTEXTS, (msgspec.MsgspecError, ValueError, RecursionError)
    ),
}
"""`context` raises what worker.server translates."""


def damaged(rng: random.Random, sample: bytes) -> bytes:
    """A sample after a few edits, or noise."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(300))
    raw = bytearray(sample)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(raw) + 1)
        match rng.randrange(6):
            case 0:
                raw[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                raw[place:place] = rng.choice(INTERESTING)
            case 2:
                del raw[place : place + rng.randint(1, 8)]
            case 3:
                other = rng.randrange(len(raw) + 1)
                raw[place:place] = raw[min(place, other) : max(place, other)]
            case 4:
                raw[place:place] = b"\x91" * rng.choice((1, 50, 2000))
            case _:
                raw[place : place + 1] = bytes(
                    [raw[place] ^ (1 << rng.randrange(8))] if place < len(raw) else []
                )
    return bytes(raw[: 64 << 10])


def fuzz(num_inputs: int, seed: int) -> Counter[str]:
    """Feed so many inputs, in turn to each target; how each ended. Raises AssertionError."""
    ends: Counter[str] = Counter()
    names = list(TARGETS)
    for number in range(num_inputs):
        name = names[number % len(names)]
        target = TARGETS[name]
        rng = random.Random(f"{seed} {number}")
        raw = damaged(rng, rng.choice(target.samples))
        started = time.process_time()
        try:
            target.feed(raw)
            ends[f"{name}: taken"] += 1
        except target.allowed:
            ends[f"{name}: refused"] += 1
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, input {number}: {raw!r}") from error
        seconds = time.process_time() - started
        assert seconds < SLOW_SECONDS, f"{name}, seed {seed}, input {number}: {seconds:.1f} s"
    return ends


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    ends = fuzz(options.inputs, options.seed)
    for name, count in sorted(ends.items()):
        print(f"{count:10,} {name}")


if __name__ == "__main__":
    main()
