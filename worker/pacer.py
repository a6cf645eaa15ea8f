"""Keeps a worker's pace up to date with the forwards it runs, and how busy it is. Pure."""

import math
from collections.abc import Sequence

from shared.pace import UNMEASURED, Pace, shares

SMOOTHING = 0.05
"""Weight of the newest forward in what a block takes."""
LEAST_PREFILL_TOKENS = 16
"""Fewer say little about a token of a long prompt."""
BUSY_SECONDS = 5.0
"""Time constant of the mean that tells how busy the worker is."""


class Pacer:
    """What a worker's forwards say about its speed."""

    def __init__(self, pace: Pace = UNMEASURED) -> None:
        self.pace = pace
        self._busy = 0.0
        self._busy_at = 0.0

    def ran(
        self,
        counts: Sequence[int],
        num_blocks: int,
        *,
        started: float,
        seconds: float,
        is_whole: bool = True,
    ) -> None:
        """A forward of `counts` tokens of as many sessions is over, by any monotonic clock.

        One that is not whole, as it only filled caches, says nothing of the blocks' pace.
        """
        self._busy = self.busy(started)
        self._busy += (1 - self._busy) * (1 - math.exp(-seconds / BUSY_SECONDS))
        self._busy_at = started + seconds
        if not is_whole:
            return
        if max(counts) == 1:
            self._decoded(len(counts), seconds / num_blocks)
        elif min(counts) > 1 and sum(counts) >= LEAST_PREFILL_TOKENS:
            self._prefilled(seconds / num_blocks / sum(counts))

    def busy(self, now: float) -> float:
        """The share of its time of late that the worker spent computing."""
        share = self._busy * math.exp(-max(0.0, now - self._busy_at) / BUSY_SECONDS)
        return min(1.0, share)

    def _decoded(self, num_sessions: int, seconds: float) -> None:
        """The measurements nearest to this batch follow it, each as far as it speaks of them."""
        if not self.pace.is_known:
            self.pace = Pace((seconds, seconds, seconds), self.pace.prefill)
            return
        off = seconds / self.pace.decode_seconds(num_sessions) - 1
        weights = (SMOOTHING * min(1.0, max(0.0, share)) for share in shares(num_sessions))
        one, some, many = (
            known * (1 + weight * off)
            for known, weight in zip(self.pace.decode, weights, strict=True)
        )
        self.pace = Pace((one, some, many), self.pace.prefill)

    def _prefilled(self, seconds: float) -> None:
        last = self.pace.prefill or seconds
        self.pace = Pace(self.pace.decode, last + SMOOTHING * (seconds - last))
