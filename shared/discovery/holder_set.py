"""Which holders a topic has and when to look for them again. Pure: time and chance come in."""

from typing import Generic, NamedTuple, TypeVar

P = TypeVar("P")

NUM_HOLDERS = 4
"""Copies of every announcement: the servers closest to the topic's key."""
ROUTINE_SECONDS = 60.0
SMALL_SWARM_MEMBERS = 16
SMALL_SWARM_SECONDS = 10.0
"""A look-up costs 10 to 50 ms of CPU in a small swarm, where a few newcomers move every topic."""
FEW_HOLDERS_SECONDS = 4.0
SETTLE_SECONDS = 1.0


class Cursor(NamedTuple):
    """How far a holder's shelf has been read, and which shelf that was."""

    mark: bytes = b""
    version: int = 0


class HolderSet(Generic[P]):
    """The holders of one topic, nearest first, and how far each has been read."""

    def __init__(self) -> None:
        self.holders: list[P] = []
        self.cursors: dict[P, Cursor] = {}
        self._num_members = 0
        self._found_at = 0.0
        self._due_at = 0.0
        self._num_troubles = 0

    def is_due(self, now: float, num_members: int) -> bool:
        """Whether to look again. `num_members` is how many servers of the swarm are known."""
        has_moved = num_members != self._num_members and num_members < SMALL_SWARM_MEMBERS
        return now >= self._due_at or (has_moved and now >= self._found_at + SETTLE_SECONDS)

    def forget(self) -> None:
        """Look again at the next occasion: the swarm around us has changed."""
        self._due_at = 0.0

    def found(self, holders: list[P], now: float, num_members: int, *, jitter: float) -> None:
        """These are the holders now. `jitter` around 1.0 keeps many nodes from looking at once."""
        self.holders = holders
        self.cursors = {p: cursor for p, cursor in self.cursors.items() if p in holders}
        self._num_members = num_members
        self._found_at = now
        self._due_at = now + jitter * _patience(len(holders), num_members)

    def asked(self, now: float, *, num_failed: int) -> None:
        """All holders were asked; where some failed, others may have taken their place."""
        self._num_troubles = self._num_troubles + 1 if num_failed else 0
        if num_failed:
            patience = min(2.0**self._num_troubles, ROUTINE_SECONDS)
            self._due_at = min(self._due_at, now + patience)


def _patience(num_holders: int, num_members: int) -> float:
    if num_holders < NUM_HOLDERS:
        return FEW_HOLDERS_SECONDS
    return SMALL_SWARM_SECONDS if num_members < SMALL_SWARM_MEMBERS else ROUTINE_SECONDS
