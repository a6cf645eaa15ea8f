"""How fast a worker computes, as it measured itself. Pure.

A step of many sessions takes far less time than as many steps of one, and a token of a prompt far
less than one that is decoded, so that one number would mislead.
"""

from itertools import pairwise
from typing import Annotated

import msgspec

BATCHES = (1, 8, 32)
"""The numbers of sessions in a batch that decode steps are measured at."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]


class Pace(msgspec.Struct, frozen=True, array_like=True):
    """The time one block takes; zeros stand for what is not known."""

    decode: tuple[Seconds, Seconds, Seconds] = (0.0, 0.0, 0.0)
    """Seconds of a decode step, for as many sessions at once as BATCHES says."""
    prefill: Seconds = 0.0
    """Seconds for each token of a prompt."""

    @property
    def is_known(self) -> bool:
        """Whether there is any measurement to go by."""
        return min(self.decode) > 0

    @property
    def block_tokens_per_second(self) -> float:
        """The most it does of its blocks for so many tokens, with many sessions at once."""
        return BATCHES[-1] / self.decode[-1]

    def decode_seconds(self, num_sessions: float) -> float:
        """Seconds of a block for one decode step of so many sessions, at least one."""
        if num_sessions <= 1:
            return self.decode[0]
        parts = zip(shares(num_sessions), self.decode, strict=True)
        return max(self.decode[0], sum(share * seconds for share, seconds in parts))


UNMEASURED = Pace()


def shares(num_sessions: float) -> tuple[float, float, float]:
    """How much each measurement says about a batch: those beside it, by its distance from them.

    Beyond the last the line goes on, so that the shares are then not between 0 and 1.
    """
    weights = [0.0] * len(BATCHES)
    (left, right) = next(
        (pair for pair in pairwise(range(len(BATCHES))) if num_sessions <= BATCHES[pair[1]]),
        (len(BATCHES) - 2, len(BATCHES) - 1),
    )
    weights[right] = (max(1.0, num_sessions) - BATCHES[left]) / (BATCHES[right] - BATCHES[left])
    weights[left] = 1 - weights[right]
    return (weights[0], weights[1], weights[2])
