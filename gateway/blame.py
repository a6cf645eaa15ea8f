"""Whom one generation keeps away from, and whose word it takes. Pure: time comes in."""

import math
from collections.abc import Set

from shared.errors import RefusalCode
from shared.swarm import PeerId

FORGIVE_SECONDS = 5.0
"""How long one generation keeps away from a worker that failed it."""


class Blame:
    """What one generation holds against workers, in seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._until: dict[PeerId, float] = {}
        self._accused: set[PeerId] = set()

    def avoided(self, now: float) -> Set[PeerId]:
        """The workers to leave out of routes."""
        self._until = {worker: until for worker, until in self._until.items() if until > now}
        return self._until.keys()

    def avoid(self, worker: PeerId, reason: RefusalCode | None, now: float) -> None:
        """Keep away from a worker that is lost, for the reason it gave if it gave one."""
        # what a worker cannot do it will not learn within the session
        seconds = math.inf if reason == "no_grammars" else FORGIVE_SECONDS
        self._until[worker] = now + seconds

    def between(self, worker: PeerId, accused: PeerId, *, is_likely: bool) -> PeerId:
        """Whom it speaks against when `worker` says that another hop is at fault.

        It is believed when that is likely, or when another has said so before: else the fault may
        as well be its own.
        """
        if not is_likely and accused not in self._accused:
            self._accused.add(accused)
            return worker
        return accused
