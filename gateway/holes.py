"""Holes in a session's checkpoints: what a hop that was replaced had copied, but not sent. Pure.

Nothing that comes after a hole can be kept, so that what follows a hop once replaced would be fed
from further and further upstream: shadows never, newcomers at a price. So a small hole is mended:
the next step begins before it.
"""

from collections.abc import Callable, Sequence

from shared.swarm import Hop
from shared.wire.messages import MAX_GATHERED_TOKENS

MAX_MENDED_TOKENS = 2 * MAX_GATHERED_TOKENS
"""Inputs that a step may run again: what a hop may have gathered, and had under way."""


class Holes:
    """The holes of one session. `held(block)` says how many inputs of a block are checkpointed."""

    def __init__(self, held: Callable[[int], int]) -> None:
        self._held = held
        self._torn: set[int] = set()

    @property
    def is_whole(self) -> bool:
        """Whether there may be no hole at all."""
        return not self._torn

    def tear(self, hops: Sequence[Hop]) -> None:
        """These took over: the last outputs of those before them may be missing."""
        self._torn |= {hop.span.end for hop in hops}

    def look(self, oldest: int, end: int) -> None:
        """Forget where nothing is missing before `end`, and holes that begin before `oldest`."""
        if oldest < end:
            self._torn = {block for block in self._torn if oldest <= self._held(block) < end}

    def mended_from(self, hops: Sequence[Hop], oldest: int, end: int) -> int:
        """Where a step through `hops` begins so that no hole is left before `end`."""
        self.look(oldest, end)
        torn = [hop.span.end for hop in hops if hop.span.end in self._torn]
        return min([end, *map(self._held, torn)]) if oldest < end else end
