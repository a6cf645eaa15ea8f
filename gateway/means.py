"""What all generations of a gateway share. Pure."""

from dataclasses import dataclass

from gateway.checkpoints import Checkpoints
from gateway.links import Links
from gateway.metrics import GatewayMetrics
from gateway.prefixes import KnownPrefixes
from shared.swarm import ModelSpec, PeerId
from shared.wire.messages import WireDtype


@dataclass(frozen=True)
class Limits:
    """What an operator bounds a generation by, and how it goes about its work."""

    chunk_tokens: int
    guess_tokens: int
    step_timeout_seconds: float
    recovery_timeout_seconds: float
    wire_dtype: WireDtype = "model"
    has_standbys: bool = False
    trusted: frozenset[PeerId] | None = None


@dataclass(frozen=True)
class Means:
    """What all generations of a gateway share."""

    spec: ModelSpec
    links: Links
    checkpoints: Checkpoints
    prefixes: KnownPrefixes
    limits: Limits
    metrics: GatewayMetrics
