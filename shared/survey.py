"""What is known of a swarm beyond what its workers announce: delays, loads, what is to be done.

Values only: a gateway fills them in from its own links and from what workers tell of theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from shared.swarm import PeerId

Delays = Mapping[PeerId, float]
"""Seconds one way from one peer to others."""


class Load(msgspec.Struct, frozen=True):
    """What a worker is busy with, and how fast it sends."""

    sessions: int = 0
    queued_tokens: int = 0
    busy: float = 0.0
    """The share of its time of late that it spent computing."""
    room_tokens: int | None = None
    """Tokens that fit into its cache still; None when that is not known."""
    bytes_per_second: float = 0.0
    """What its uplink carries; 0 until something large has gone over it."""


IDLE = Load()


@dataclass(frozen=True)
class Survey:
    """What a gateway knows at one instant."""

    delays: Delays = field(default_factory=dict[PeerId, float])
    """From the gateway to workers."""
    between: Mapping[PeerId, Delays] = field(default_factory=dict[PeerId, Delays])
    """From workers to other workers."""
    loads: Mapping[PeerId, Load] = field(default_factory=dict[PeerId, Load])


NOTHING_KNOWN = Survey()


class Needs(msgspec.Struct, frozen=True):
    """What a route is wanted for: to read `prompt_tokens` at once, then make `new_tokens`.

    A row of hidden states is `row_bytes` on its way from one worker to the next.
    """

    prompt_tokens: int = 0
    new_tokens: int = 1
    row_bytes: int = 0

    @property
    def tokens(self) -> int:
        """What the caches have to hold at the end."""
        return self.prompt_tokens + self.new_tokens
