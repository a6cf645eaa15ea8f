"""Whose steps run first when several gateways wait. Pure.

Each gateway's clock runs with the tokens it had computed, and the one that is furthest behind is
next: start-time fair queueing, https://doi.org/10.1109/90.649569. A gateway that comes back after a
pause starts level with those that waited on, so that it has saved nothing up.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from shared.swarm import PeerId


class Queued(Protocol):
    """What is to be known of a step."""

    @property
    def gateway(self) -> PeerId: ...
    @property
    def count(self) -> int: ...


Step = TypeVar("Step", bound=Queued)


class Turns:
    """The gateways' clocks, in tokens."""

    def __init__(self) -> None:
        self._clocks: dict[PeerId, int] = {}
        self._now = 0
        """Where the clock of a newcomer begins."""

    def ordered(self, waiting: Sequence[Step]) -> list[Step]:
        """The steps of those furthest behind first; each gateway's own in the order they came."""
        gateways = {step.gateway for step in waiting}
        clocks = {g: max(self._now, self._clocks.get(g, 0)) for g in gateways}
        ahead = {g: clock for g, clock in self._clocks.items() if clock > self._now}
        self._clocks = ahead | clocks
        self._now = min(clocks.values(), default=self._now)
        if len(gateways) < 2:
            return list(waiting)
        return sorted(waiting, key=lambda step: clocks[step.gateway])

    def ran(self, batch: Iterable[Queued]) -> None:
        """These steps have had their turn."""
        for step in batch:
            self._clocks[step.gateway] = self._clocks.get(step.gateway, 0) + step.count
