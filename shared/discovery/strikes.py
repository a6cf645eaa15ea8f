"""Remembers which peers hang or cannot be dialled, and leaves them alone for a while. Pure."""

from collections.abc import Callable, Collection
from typing import Generic, TypeVar

P = TypeVar("P")

STRIKES_TO_BE_OUT = 2
FIRST_OUT_SECONDS = 10.0
LONGEST_OUT_SECONDS = 120.0
MAX_PEERS = 4096
OWN_FAULT_SHARE = 0.3
"""When more than this share of the peers asked at once fail, the fault is ours, not theirs."""


class Strikes(Generic[P]):
    """Peers out of favour, by a monotonic clock in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._strikes: dict[P, int] = {}
        self._out_until: dict[P, float] = {}

    def is_out(self, peer: P) -> bool:
        """Whether to leave the peer alone for now."""
        return self._out_until.get(peer, 0.0) > self._monotonic()

    def answered(self, peer: P) -> None:
        """The peer works: forget what it did."""
        self._strikes.pop(peer, None)
        self._out_until.pop(peer, None)

    def failed(self, peer: P) -> bool:
        """The peer hung or could not be dialled; whether it is out now."""
        strikes = self._strikes[peer] = self._strikes.get(peer, 0) + 1
        if strikes >= STRIKES_TO_BE_OUT:
            seconds = FIRST_OUT_SECONDS * 2 ** min(strikes - STRIKES_TO_BE_OUT, 10)
            self._out_until[peer] = self._monotonic() + min(seconds, LONGEST_OUT_SECONDS)
        for kept in (self._strikes, self._out_until):
            while len(kept) > MAX_PEERS:
                del kept[next(iter(kept))]
        return strikes >= STRIKES_TO_BE_OUT

    def judge(self, failed: Collection[P], *, num_asked: int) -> list[P]:
        """Strike those who failed among `num_asked` asked together; which of them are out now."""
        if len(failed) > max(2, OWN_FAULT_SHARE * num_asked):
            return []
        return [peer for peer in failed if self.failed(peer)]
