"""The speed that a worker tells those who plan: steady, though what it measures is not. Pure.

A measurement differs twofold with whatever else the machine does meanwhile. Planned by, each would
send somebody somewhere. So what is told stays as it is until the median of many differs from it by
more than they do among themselves.
"""

from collections import deque
from statistics import median

NUM_REMEMBERED = 11
"""Measurements the median is of; one is taken each time a worker looks whether to move."""
CHANGED = 1.6
"""The ratio of the median to what is told, or its inverse, from which on the machine is another."""


class SteadySpeed:
    """Block-tokens a second, as `told` to others; 0 as long as nothing was measured."""

    def __init__(self, measured: float = 0.0) -> None:
        self.told = measured
        self._measured = deque([measured] if measured else [], maxlen=NUM_REMEMBERED)

    def measure(self, measured: float) -> None:
        """Take another measurement into account; the same again is that of a worker at rest."""
        if measured <= 0 or [measured] == list(self._measured)[-1:]:
            return
        self._measured.append(measured)
        if not self.told:
            self.told = measured
        if len(self._measured) < NUM_REMEMBERED:
            return
        usual = median(self._measured)
        if not 1 / CHANGED <= usual / self.told <= CHANGED:
            self.told = usual
