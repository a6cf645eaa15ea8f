"""One frozen struct per message of the wire.

Structs grow by fields with defaults; a field is never renamed or reused. Bounds stand here, so
that a decoded message can only be sane. The payload travels beside the message, see codec.py.
"""

from typing import Annotated, Literal

import msgspec

from shared.errors import RefusalCode
from shared.records import MAX_RECORD_BYTES
from shared.swarm import MAX_BLOCKS, BlockIndex, Hop, PeerId

PROTOCOL_VERSION = 1

MAX_POSITION = 1 << 24
MAX_STEP_TOKENS = 1 << 16
MAX_HOPS = 256
MAX_CONTEXT_BYTES = 1 << 20
PREFIX_PAGE_TOKENS = 64
"""Tokens that one page key stands for."""
PAGE_KEY_BYTES = 16

Session = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Peer = Annotated[PeerId, msgspec.Meta(max_length=128)]
Position = Annotated[int, msgspec.Meta(ge=0, le=MAX_POSITION)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_STEP_TOKENS)]
Epoch = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Name = Annotated[str, msgspec.Meta(max_length=128)]
Sentence = Annotated[str, msgspec.Meta(max_length=1024)]

PayloadDtype = Literal["int32", "float32", "bfloat16", "float16"]
"""Token ids travel as int32, hidden states in the model's dtype, all little-endian."""

DTYPE_BYTES: dict[PayloadDtype, int] = {"int32": 4, "float32": 4, "bfloat16": 2, "float16": 2}


PageKeys = Annotated[
    tuple[
        Annotated[bytes, msgspec.Meta(min_length=PAGE_KEY_BYTES, max_length=PAGE_KEY_BYTES)], ...
    ],
    msgspec.Meta(max_length=1 << 14),
]
"""Salted hashes of a text's first pages, each over the one before it."""


class Message(msgspec.Struct, frozen=True, tag_field="type"):
    """Anything that stands in a frame's header."""


class Hello(Message, frozen=True, tag="hello"):
    """First message both ways: who speaks, for which swarm, and a fresh nonce."""

    peer: Peer
    swarm: Name
    nonce: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    version: int = PROTOCOL_VERSION


class Proof(Message, frozen=True, tag="proof"):
    """Second message both ways: a signature over both Hellos."""

    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to choose tokens: the opaque context of a step, for the last hop alone.

    A temperature or top_p of 0 is greedy. Each choice depends on nothing but these, the logits
    and the token's position.
    """

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    seed: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)] = 0


class Step(Message, frozen=True, tag="step"):
    """Run `count` tokens from `position` on through `hops`, the receiver first.

    The payload is int32 [count] token ids where the first hop starts at block 0, else hidden
    states [count, hidden_size]. `sample` holds the positions after which a token is wanted.
    `epoch` grows with every change of route; a worker drops steps of an older one. With
    `acknowledge` the last of the hops answers with Filled.
    """

    session: Session
    epoch: Epoch
    gateway: Peer
    position: Position
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEP_TOKENS)]
    hops: Annotated[tuple[Hop, ...], msgspec.Meta(min_length=1, max_length=MAX_HOPS)]
    dtype: PayloadDtype
    sample: Annotated[tuple[Position, ...], msgspec.Meta(max_length=256)] = ()
    context: Annotated[bytes, msgspec.Meta(max_length=MAX_CONTEXT_BYTES)] = b""
    acknowledge: bool = False
    prefix: PageKeys = ()
    """Pages the receiver may have kept: a session it does not know begins with those it has."""


class Checkpoint(Message, frozen=True, tag="checkpoint"):
    """Copy of what a worker pushed on: the inputs of `block`, payload [count, hidden_size]."""

    session: Session
    epoch: Epoch
    block: BlockIndex
    position: Position
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEP_TOKENS)]
    dtype: PayloadDtype


class Tokens(Message, frozen=True, tag="tokens"):
    """The tokens sampled for `position` and those after it."""

    session: Session
    epoch: Epoch
    position: Position
    token_ids: Annotated[tuple[TokenId, ...], msgspec.Meta(min_length=1, max_length=256)]


class Filled(Message, frozen=True, tag="filled"):
    """The caches of a step's hops, the last of which ends at `block`, now reach `position`."""

    session: Session
    epoch: Epoch
    block: BlockIndex
    position: Position


class Refused(Message, frozen=True, tag="refused"):
    """A worker did not run a step of this session."""

    session: Session
    epoch: Epoch
    worker: Peer
    reason: RefusalCode
    detail: Sentence = ""
    cached: Position = 0
    lost: Peer = PeerId("")


class Introduce(Message, frozen=True, tag="introduce"):
    """Signed announcements of workers the receiver may have to dial."""

    records: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=MAX_RECORD_BYTES)], ...],
        msgspec.Meta(max_length=MAX_HOPS),
    ]


class Status(Message, frozen=True, tag="status"):
    """What a worker says of its load; sent on change and every few seconds."""

    sessions: Annotated[int, msgspec.Meta(ge=0)]
    queued_steps: Annotated[int, msgspec.Meta(ge=0)]
    pages_free: Annotated[int, msgspec.Meta(ge=0)]
    pages_total: Annotated[int, msgspec.Meta(ge=0)]
    leaving: bool = False
    decode_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Close(Message, frozen=True, tag="close"):
    """The session is over: free its pages, or keep those of `prefix` for texts that begin alike."""

    session: Session
    prefix: PageKeys = ()


AnyMessage = (
    Hello | Proof | Step | Checkpoint | Tokens | Filled | Refused | Introduce | Status | Close
)

assert MAX_BLOCKS >= MAX_HOPS
