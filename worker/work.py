"""One step on its way through the engine: what is to be done, what is asked, what came of it."""

from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import StepRefused
from shared.swarm import PeerId
from shared.wire.messages import (
    ModelDtype,
    PayloadDtype,
    Reading,
    SamplingContext,
    TokenLogprobs,
    WireDtype,
)
from worker.parts import PartKey
from worker.wants import Want

NOBODY = PeerId("")


@dataclass(frozen=True)
class Told:
    """What a reading asked for at `positions`: rows of `width` elements, see wire States."""

    block: int
    positions: tuple[int, ...]
    dtype: ModelDtype
    width: int
    payload: bytes


@dataclass(frozen=True)
class Outcome:
    """What a step came to: hidden states to push on, or the tokens and scores asked for, and what
    was read on the way."""

    payload: bytes = b""
    dtype: PayloadDtype = "float32"
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    scores: tuple[TokenLogprobs, ...] = ()
    told: tuple[Told, ...] = ()


@dataclass(frozen=True)
class Work:
    """One admitted step, ready to run.

    `payload` holds token ids or hidden states as the wire brought them, `wire_dtype` says how the
    outcome goes on, if there is a next hop that it `goes_on` to; `sample` holds the positions after
    which a token is wanted, `context` how to choose it. Exactly one of the callbacks is called,
    once, unless the session is freed first.
    """

    key: PartKey
    position: int
    count: int
    pages: int
    payload: memoryview
    dtype: PayloadDtype
    sample: tuple[int, ...]
    context: SamplingContext
    on_done: Callable[[Outcome], object]
    on_failed: Callable[[StepRefused], object]
    wire_dtype: WireDtype = "model"
    gateway: PeerId = NOBODY
    read: Reading | None = None
    goes_on: bool = True

    @property
    def is_scored(self) -> bool:
        """Whether tokens of the text itself are scored."""
        return self.context.scoring is not None

    @property
    def is_fill(self) -> bool:
        """Whether nothing is wanted but what it leaves in the cache."""
        return not (self.goes_on or self.sample or self.is_scored or self.read)

    @property
    def is_bulky(self) -> bool:
        """Whether each of its tokens may bring logits or many states into memory."""
        return self.is_scored or (self.read is not None and self.read.kind != "mean")


@dataclass(frozen=True)
class Asked:
    """What a step asks of its logits: tokens to choose, and how likely those are that `followers`
    names, the first of which follows its first input. And whether it adds to a mean."""

    wants: list[Want]
    followers: list[int]
    is_mean: bool = False
