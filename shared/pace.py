"""How fast a worker computes, as it measured itself. Pure.

A step of many sessions takes far less time than as many steps of one, and a token of a prompt far
less than one that is decoded, so that one number would mislead.
"""

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
        return 0.0 not in self.decode

    @property
    def block_tokens_per_second(self) -> float:
        """The most it does of its blocks for so many tokens, with many sessions at once."""
        return BATCHES[-1] / self.decode[-1]

    def decode_seconds(self, num_sessions: float) -> float:
        """Seconds of a block for one decode step of so many sessions, at least one."""
        one, some, many = self.decode
        if num_sessions <= 1:
            return one
        if num_sessions <= BATCHES[1]:
            seconds = one + (some - one) * (num_sessions - BATCHES[0]) / (BATCHES[1] - BATCHES[0])
        else:
            seconds = some + (many - some) * (num_sessions - BATCHES[1]) / (BATCHES[2] - BATCHES[1])
        return max(one, seconds)


UNMEASURED = Pace()


def shares(num_sessions: float) -> tuple[float, float, float]:
    """How much each measurement says about a batch: those beside it, by its distance from them.

    Beyond the last the line goes on, so that the shares are then not between 0 and 1.
    """
    one, some, many = BATCHES
    if num_sessions <= some:
        of_some = (max(1.0, num_sessions) - one) / (some - one)
        return (1 - of_some, of_some, 0.0)
    of_many = (num_sessions - some) / (many - some)
    return (0.0, 1 - of_many, of_many)
