"""The values everything speaks of: spans, hops, routes, announcements, the swarm view. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, NewType, Self

import msgspec

from shared.errors import ConfigError
from shared.pace import UNMEASURED, Pace

PeerId = NewType("PeerId", str)
"""A libp2p peer id of an Ed25519 key in base58, e.g. `12D3KooW…`."""

SessionId = NewType("SessionId", bytes)
"""128 random bits. Whoever knows it may step the session."""

MAX_BLOCKS = 4096
"""More than any model has; bounds what a peer can make us loop over."""

GATEWAYS = "#gateways"
"""At the end of the revision in a gateway's announcement."""

MAX_ATTACHED = 8
"""Gateways that one worker may be attached to."""

BlockIndex = Annotated[int, msgspec.Meta(ge=0, le=MAX_BLOCKS)]


class Span(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Blocks `[start, end)`, never empty."""

    start: BlockIndex
    end: BlockIndex

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"span {self.start}:{self.end} holds no blocks")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"

    def covers(self, other: "Span") -> bool:
        """Whether every block of `other` is in this span."""
        return self.start <= other.start and other.end <= self.end

    def overlaps(self, other: "Span") -> bool:
        """Whether the two share a block."""
        return self.start < other.end and other.start < self.end

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `A:B`. Raises ConfigError, saying what is wrong with it."""
        start, colon, end = text.partition(":")
        if not (colon and start.strip().isdecimal() and end.strip().isdecimal()):
            raise ConfigError(f"blocks {text!r} are not of the form START:END, e.g. 0:8")
        if not 0 <= int(start) < int(end) <= MAX_BLOCKS:
            raise ConfigError(f"blocks {text!r}: START must be below END, END at most {MAX_BLOCKS}")
        return cls(int(start), int(end))


class Hop(msgspec.Struct, frozen=True, array_like=True):
    """One worker's part of a session."""

    worker: PeerId
    span: Span


Route = tuple[Hop, ...]
"""All hops of a session, in order, tiling the model."""


class ModelSpec(msgspec.Struct, frozen=True):
    """What gateway and workers must agree on about a model."""

    name: str
    revision: str
    num_blocks: int
    hidden_size: int
    vocab_size: int
    max_positions: int

    @property
    def blocks(self) -> Span:
        """The whole model as a span."""
        return Span(0, self.num_blocks)


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself; believed until `issued_at + lease_seconds`.

    `sequence` grows with every announcement of the peer, so the newest wins. `issued_at` is in
    seconds since the epoch by the worker's clock. `url` is where it takes WebSocket links.
    """

    worker: PeerId
    swarm: Annotated[str, msgspec.Meta(max_length=128)]
    model: Annotated[str, msgspec.Meta(max_length=256)]
    revision: Annotated[str, msgspec.Meta(max_length=128)]
    span: Span
    num_blocks: BlockIndex
    url: Annotated[str, msgspec.Meta(max_length=512)]
    dtype: Annotated[str, msgspec.Meta(max_length=16)]
    sequence: Annotated[int, msgspec.Meta(ge=0)]
    issued_at: float
    lease_seconds: Annotated[float, msgspec.Meta(gt=0, le=120)]
    leaving: bool = False
    tokens_per_second: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The longest session its pages can hold; 0 when it does not say."""
    node: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """The multiaddr of its DHT node, so that whoever hears of the worker knows another member."""
    pace: Pace = UNMEASURED
    """How fast it computes."""
    speed: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 0.0
    """Block-tokens a second to plan by, steadier than `pace`; 0 when that is all there is."""
    fits: BlockIndex = 0
    """How many blocks it has room for; 0 when it hosts what it was told to."""
    next_span: Span | None = None
    """The blocks it is about to host. With `leaving` it drains or loads and serves nobody new."""
    intends: bool = False
    """Whether `next_span` is a mere intention, which those whose ids come before need not heed."""
    entry_of: Annotated[str, msgspec.Meta(max_length=400)] = ""
    """MODEL@REVISION in an entry of the swarm's catalogue; see shared/catalogue.py."""
    certificate: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """The SHA-256 of the TLS certificate at a wss:// `url`; none where an authority vouches."""
    sealed: Annotated[bytes, msgspec.Meta(max_length=3072)] = b""
    """The true record, of a worker in a private swarm; see shared/discovery/sealed.py."""
    attached: Annotated[
        tuple[Annotated[PeerId, msgspec.Meta(max_length=128)], ...],
        msgspec.Meta(max_length=MAX_ATTACHED),
    ] = ()
    """The gateways that a worker without a `url` holds a link to: nobody can dial it."""

    @property
    def expires_at(self) -> float:
        """When it is no longer believed, in seconds since the epoch by the worker's clock."""
        return self.issued_at + self.lease_seconds

    @property
    def topic(self) -> str:
        """The directory topic it belongs under."""
        return topic_of(self.swarm, self.model, self.revision)


SwarmView = Mapping[PeerId, Announcement]
"""The live announcements at one instant."""


def topic_of(swarm: str, model: str, revision: str) -> str:
    """The name under which the workers of one model in one swarm are listed."""
    return f"{swarm}/{model}@{revision}"


def gateways_topic(topic: str) -> str:
    """The name under which gateways are listed that the workers of a topic may attach to."""
    return f"{topic}{GATEWAYS}"


def tiles(hops: Sequence[Hop], span: Span) -> bool:
    """Whether the hops, in order, cover `span` without gap or overlap."""
    edges = [span.start, *(hop.span.end for hop in hops)]
    starts = [hop.span.start for hop in hops] + [span.end]
    return bool(hops) and edges == starts


def spliced(route: Route, span: Span, hops: Route) -> Route:
    """The route with `hops` in the place of its hops in `span`."""
    before = tuple(hop for hop in route if hop.span.end <= span.start)
    after = tuple(hop for hop in route if hop.span.start >= span.end)
    return before + hops + after


def uncovered(hosted: Iterable[Span], span: Span) -> list[Span]:
    """The parts of `span` that no hosted span covers, in order."""
    gaps: list[Span] = []
    reached = span.start
    for part in sorted(hosted):
        if part.start > reached and reached < span.end:
            gaps.append(Span(reached, min(part.start, span.end)))
        reached = max(reached, part.end)
    if reached < span.end:
        gaps.append(Span(reached, span.end))
    return gaps
