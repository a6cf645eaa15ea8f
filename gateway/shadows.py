"""Workers that run what a hop of the route runs, a little later, ready to take its place. Pure.

They are fed the hop's own inputs, so that a planned leave costs no pause and a crash no prefill.
"""

from dataclasses import dataclass, field

from shared.swarm import Hop, PeerId, Route

MAX_FILLS = 2
"""Fills under way at a time: one that runs, and one that waits where it arrives. What comes
meanwhile goes together in the next, so that a shadow far behind catches up."""

NEAR_TOKENS = 8
"""How far behind a shadow may be for the next step to wait for it."""

PATIENT_FILLS = 8
"""Fills after which a shadow that is near counts as one that comes no nearer. Before, none waits
for two fills: as a rule the second is done while the route runs one step more."""


@dataclass
class Shadow:
    """`hops` tile the span of `hop`. Their caches are known to reach `filled`.

    With `takes_over` they are to replace the hop as soon as they have caught up.
    """

    hop: Hop
    hops: Route
    epoch: int
    takes_over: bool = False
    filled: int = 0
    _num_near: int = 0
    _fills: list[int] = field(default_factory=list[int])

    @property
    def sent(self) -> int:
        """The end of what they were sent."""
        return self._fills[-1] if self._fills else self.filled

    @property
    def has_room(self) -> bool:
        """Whether another fill may be sent."""
        return len(self._fills) < MAX_FILLS

    def involves(self, worker: PeerId) -> bool:
        """Whether this worker is one of them."""
        return any(hop.worker == worker for hop in self.hops)

    def is_near(self, position: int) -> bool:
        """Whether they will have reached `position` in a moment, and not much sooner later on."""
        is_on_its_way = self.sent >= position and position - self.filled <= NEAR_TOKENS
        return is_on_its_way and (self.has_room or self._num_near > PATIENT_FILLS)

    def fill_to(self, end: int) -> None:
        """Inputs up to `end` went out."""
        self._num_near += end - self.filled <= NEAR_TOKENS
        self._fills.append(end)

    def reached(self, worker: PeerId, block: int, position: int) -> bool:
        """Note that a fill arrived at the end of the hops; whether it was one of theirs."""
        last = self.hops[-1]
        if (last.worker, last.span.end) != (worker, block) or position not in self._fills:
            return False
        self.filled = position
        self._fills = [end for end in self._fills if end > position]
        return True
