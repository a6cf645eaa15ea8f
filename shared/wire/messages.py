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
MAX_GRAMMAR_CHARACTERS = 1 << 16
MAX_BIASES = 1024
MAX_STOP_IDS = 256
MAX_TOP_LOGPROBS = 20
LEAST_LOGPROB = -9999.0
PREFIX_PAGE_TOKENS = 64
"""Tokens that one page key stands for."""
PAGE_KEY_BYTES = 16
MAX_NEIGHBOURS = 64
"""Ways to other workers that a worker tells of."""
MAX_GATHERED_TOKENS = 16
"""Decode steps whose outputs may go to the gateway in one copy."""
MAX_READ_BYTES = 32 << 20
"""What one step may bring the gateway of states or logits, as float32."""

Session = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Peer = Annotated[PeerId, msgspec.Meta(max_length=128)]
Position = Annotated[int, msgspec.Meta(ge=0, le=MAX_POSITION)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_STEP_TOKENS)]
MAX_EPOCH = (1 << 32) - 1
Epoch = Annotated[int, msgspec.Meta(ge=0, le=MAX_EPOCH)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Name = Annotated[str, msgspec.Meta(max_length=128)]
Sentence = Annotated[str, msgspec.Meta(max_length=1024)]

ModelDtype = Literal["float32", "bfloat16", "float16"]
"""What models compute in."""

PayloadDtype = Literal["int32", "float32", "bfloat16", "float16", "int8b64"]
"""Token ids travel as int32, hidden states in the model's dtype, all little-endian.

An int8b64 row is its elements as int8, then a float16 scale for each 64 of them, the last block
being shorter where the width asks for it.
"""

WireDtype = Literal["model", "int8"]
"""How hop outputs travel: in the model's dtype, or as int8b64."""

BLOCK_ELEMENTS = 64
_ELEMENT_BYTES = {"int32": 4, "float32": 4, "bfloat16": 2, "float16": 2}


def row_bytes(dtype: PayloadDtype, width: int) -> int:
    """The size of one row of a payload, `width` elements."""
    if dtype == "int8b64":
        return width + 2 * -(-width // BLOCK_ELEMENTS)
    return width * _ELEMENT_BYTES[dtype]


PageKeys = Annotated[
    tuple[
        Annotated[bytes, msgspec.Meta(min_length=PAGE_KEY_BYTES, max_length=PAGE_KEY_BYTES)], ...
    ],
    msgspec.Meta(max_length=1 << 14),
]
"""Salted hashes of a text's first pages, each over the one before it."""

Grants = Annotated[
    tuple[Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)], ...],
    msgspec.Meta(max_length=MAX_HOPS),
]


class Message(msgspec.Struct, frozen=True, tag_field="type"):
    """Anything that stands in a frame's header."""


class Hello(Message, frozen=True, tag="hello"):
    """First message both ways: who speaks, for which swarm, and a fresh nonce."""

    peer: Peer
    swarm: Name
    nonce: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    version: int = PROTOCOL_VERSION
    is_private: bool = False


class Proof(Message, frozen=True, tag="proof"):
    """Second message both ways: a signature over both Hellos.

    `membership` is a keyed hash of the same, where the swarm is private.
    """

    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    membership: Annotated[bytes, msgspec.Meta(max_length=32)] = b""


class Grammar(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the answer has to look like, see shared/grammars.py."""

    kind: Literal["json_schema", "regex", "lark"]
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_GRAMMAR_CHARACTERS)]
    lenient: bool = False


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to choose tokens. Each choice depends on nothing but these, the logits, the text and
    the token's position.

    A temperature or top_p of 0 is greedy, a top_k of 0 any number of candidates. The presence and
    frequency penalties look at the generated tokens, the repetition penalty at the prompt's too.
    `num_logprobs` is how many alternatives to tell with each token; none asks for no logprobs.
    `num_prompt_logprobs` is the same for the prompt's own tokens, see Scoring.
    `stop_ids` are chosen neither among the first `min_tokens` nor where the grammar wants more; the
    gateway names them where one of the two matters.
    """

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    seed: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)] = 0
    top_k: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] = 1.0
    logit_bias: Annotated[
        tuple[tuple[TokenId, Annotated[float, msgspec.Meta(ge=-100, le=100)]], ...],
        msgspec.Meta(max_length=MAX_BIASES),
    ] = ()
    num_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    stop_ids: Annotated[tuple[TokenId, ...], msgspec.Meta(max_length=MAX_STOP_IDS)] = ()
    min_tokens: Position = 0
    grammar: Grammar | None = None
    num_prompt_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @property
    def reads_prompt(self) -> bool:
        """Whether a choice depends on which tokens the prompt holds."""
        return self.repetition_penalty != 1

    @property
    def reads_text(self) -> bool:
        """Whether a choice depends on the tokens generated before it."""
        penalties = self.presence_penalty or self.frequency_penalty or self.reads_prompt
        return bool(penalties) or self.grammar is not None


class Scoring(msgspec.Struct, frozen=True):
    """Asks how likely the tokens of the text from `position` on are, each after those before it,
    and for as many of the likeliest as `num_prompt_logprobs` says. The ids are packed."""

    position: Annotated[int, msgspec.Meta(ge=1, le=MAX_POSITION)]
    token_ids: Annotated[bytes, msgspec.Meta(min_length=4, max_length=4 * MAX_STEP_TOKENS)]


class SamplingContext(msgspec.Struct, frozen=True, omit_defaults=True):
    """The opaque context of a step that samples or scores, for the last hop alone.

    The answer begins at position `start`. Where `sampling` reads the text, `generated` holds the
    answer's tokens and after them the step's guesses: the choice for a position sees those before
    it. Where it reads the prompt, `prompt` holds the prompt's distinct tokens. With `scoring`, the
    token after each of the step's inputs is scored too, as far as it is named there. Ids are
    packed, see codec.pack_ids.
    """

    sampling: Sampling
    start: Position = 0
    generated: bytes = b""
    prompt: bytes = b""
    scoring: Scoring | None = None


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the gateway is to be told of a text itself, after each of `positions`, in their order.

    `states`: what each of `blocks` is given there; 0 is given the embedding, and the number of
    blocks stands for what comes out of the final norm. Each hop tells of the blocks that follow
    its own. `logits`: as the model gives them, from the last hop. `mean`: of the last states up to
    there, its first `dimensions` elements, or all for 0, made a vector of length 1; for this the
    last hop has to be asked in every step from position 0 on.
    """

    kind: Literal["states", "logits", "mean"]
    positions: Annotated[tuple[Position, ...], msgspec.Meta(max_length=MAX_STEP_TOKENS)] = ()
    blocks: Annotated[tuple[BlockIndex, ...], msgspec.Meta(max_length=MAX_BLOCKS + 1)] = ()
    dimensions: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0

    def rows_at_once(self, hidden_size: int, vocab_size: int) -> int:
        """How many positions a step may be asked for, so that it brings no more than it may."""
        widths = {"states": hidden_size * len(self.blocks), "logits": vocab_size}
        width = widths.get(self.kind, hidden_size)
        return max(1, MAX_READ_BYTES // row_bytes("float32", width))


class Step(Message, frozen=True, tag="step"):
    """Run `count` tokens from `position` on through `hops`, the receiver first.

    The payload is int32 [count] token ids where the first hop starts at block 0, else hidden
    states [count, hidden_size]. `sample` holds the positions after which a token is wanted.
    `epoch` grows with every change of route; a worker drops steps of an older one. With
    `acknowledge` the last of the hops answers with Filled. With `gathers` the copies of outputs
    may come to the gateway some at a time, a moment later. A step with `read` samples nothing.
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
    wire_dtype: WireDtype = "model"
    gathers: bool = False
    grants: Grants = ()
    """For each of the hops the gateway's word that the session is its own, see shared/grants.py."""
    read: Reading | None = None
    relays: bool = False
    """Whether the gateway passes on what a hop cannot hand to the next one itself, see Relay."""


class Checkpoint(Message, frozen=True, tag="checkpoint"):
    """Copy of what a worker pushed on: the inputs of `block`, payload [count, hidden_size]."""

    session: Session
    epoch: Epoch
    block: BlockIndex
    position: Position
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEP_TOKENS)]
    dtype: PayloadDtype


Logprob = Annotated[float, msgspec.Meta(ge=LEAST_LOGPROB, le=0)]


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """How likely the model itself found a token, and which others it found likeliest.

    Natural logarithms, before temperature, penalties and whatever else shapes the choice. `rank`,
    told of tokens that are scored, is 1 for the likeliest token of all.
    """

    chosen: Logprob
    top_ids: Annotated[tuple[TokenId, ...], msgspec.Meta(max_length=MAX_TOP_LOGPROBS)] = ()
    top: Annotated[tuple[Logprob, ...], msgspec.Meta(max_length=MAX_TOP_LOGPROBS)] = ()
    rank: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0


class Tokens(Message, frozen=True, tag="tokens"):
    """The tokens sampled for `position` and those after it, with logprobs where asked for."""

    session: Session
    epoch: Epoch
    position: Position
    token_ids: Annotated[tuple[TokenId, ...], msgspec.Meta(min_length=1, max_length=256)]
    logprobs: Annotated[tuple[TokenLogprobs, ...], msgspec.Meta(max_length=256)] = ()


class Scores(Message, frozen=True, tag="scores"):
    """How likely the token at `position` of the text itself is, and those after it."""

    session: Session
    epoch: Epoch
    position: Position
    logprobs: Annotated[tuple[TokenLogprobs, ...], msgspec.Meta(min_length=1, max_length=256)]


class States(Message, frozen=True, tag="states"):
    """What was read after `positions`: payload [len(positions), width].

    It is what `block` is given there; logits and means stand under the number of blocks.
    """

    session: Session
    epoch: Epoch
    block: BlockIndex
    positions: Annotated[
        tuple[Position, ...], msgspec.Meta(min_length=1, max_length=MAX_STEP_TOKENS)
    ]
    dtype: ModelDtype
    width: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]


class Filled(Message, frozen=True, tag="filled"):
    """The caches of a step's hops, the last of which ends at `block`, now reach `position`."""

    session: Session
    epoch: Epoch
    block: BlockIndex
    position: Position


class Refused(Message, frozen=True, tag="refused"):
    """A worker did not run a step of this session, or could not hand it on.

    `cached` is where its cache ends; when a link to the next hop broke under way, where the step
    that may be lost does.
    """

    session: Session
    epoch: Epoch
    worker: Peer
    reason: RefusalCode
    detail: Sentence = ""
    cached: Position = 0
    lost: Peer = PeerId("")


class Introduce(Message, frozen=True, tag="introduce"):
    """Signed announcements of workers that the receiver may dial."""

    records: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=MAX_RECORD_BYTES)], ...],
        msgspec.Meta(max_length=MAX_HOPS),
    ]
    dial: bool = False
    """Whether to dial them now: the receiver is about to push to them, or they to it, who cannot
    dial it."""


class Relay(Message, frozen=True, tag="relay"):
    """A frame between two workers of a session that have no link, on its way through the gateway.

    The payload is the whole frame, which the gateway does not open. On the way to the gateway
    `worker` is whom it is for, on the way from there whom it is from. `epoch` is that of the step
    in it.
    """

    session: Session
    epoch: Epoch
    worker: Peer


class DialBack(Message, frozen=True, tag="dial_back"):
    """A worker asks a gateway to dial it at the address in `record`, its own announcement."""

    record: Annotated[bytes, msgspec.Meta(max_length=MAX_RECORD_BYTES)]


DialOutcome = Literal[
    "reached",  # the worker answered there, and proved to be itself
    "unreached",  # nobody did
    "elsewhere",  # the address is not the one that the worker comes from: nobody was dialled
    "busy",  # too much is asked of the gateway: nobody was dialled
]


class DialledBack(Message, frozen=True, tag="dialled_back"):
    """What came of it."""

    outcome: DialOutcome
    seen_at: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """The address that the worker comes from, as the gateway sees it."""


class Neighbour(msgspec.Struct, frozen=True, array_like=True):
    """Another worker, and how long the way to it takes, one way."""

    worker: Peer
    delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)]


class Status(Message, frozen=True, tag="status"):
    """What a worker says of its load; sent on change and every few seconds."""

    sessions: Annotated[int, msgspec.Meta(ge=0)]
    queued_steps: Annotated[int, msgspec.Meta(ge=0)]
    pages_free: Annotated[int, msgspec.Meta(ge=0)]
    pages_total: Annotated[int, msgspec.Meta(ge=0)]
    leaving: bool = False
    decode_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    slowest_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """The longest that a forward has taken of late."""
    queued_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Tokens of the steps that wait."""
    busy: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """The share of its time of late that it spent computing."""
    bytes_per_second: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 0.0
    """What its uplink has carried; 0 before anything large went over it."""
    neighbours: Annotated[tuple[Neighbour, ...], msgspec.Meta(max_length=MAX_NEIGHBOURS)] = ()
    """What it knows of its ways to other workers; told now and then only."""


class Close(Message, frozen=True, tag="close"):
    """The session is over here: free its pages, or keep those of `prefix` for texts like it.

    Steps of `epoch` and before are of the past; the receiver may be asked to serve later ones.
    """

    session: Session
    prefix: PageKeys = ()
    epoch: Epoch = MAX_EPOCH


AnyMessage = (
    Hello
    | Proof
    | Step
    | Checkpoint
    | Tokens
    | Scores
    | States
    | Filled
    | Refused
    | Introduce
    | Status
    | Close
    | Relay
    | DialBack
    | DialledBack
)

assert MAX_BLOCKS >= MAX_HOPS
