"""Hosts on their blocks, and how good that is. Pure.

Arrangements are compared by their *pain*: how far the levels of their blocks (see shared/flow.py)
are from what the best placement could give, poor blocks counting by far the most.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shared.flow import Host, levels
from shared.swarm import Span

ENOUGH = 1.2
"""How rich, as a share of the goal, blocks may be for it to make a difference."""
HOLE = 0.01
"""A share of the goal that makes a block without hosts terribly, but not infinitely, poor."""


@dataclass(frozen=True)
class Arrangement:
    """Hosts after some moves."""

    hosts: tuple[Host, ...]
    levels: list[float]
    pain: float
    moved: frozenset[int] = frozenset()

    @property
    def num_bare(self) -> int:
        """Blocks that nobody hosts."""
        return sum(level <= 0 for level in self.levels)

    @property
    def throughput(self) -> float:
        """The level of the poorest block."""
        return min(self.levels)

    def with_moves(self, starts: Mapping[int, int], goal: float) -> "Arrangement":
        """What becomes of it when the hosts at these indices begin at other blocks."""
        hosts = list(self.hosts)
        for index, start in starts.items():
            hosts[index] = begun_at(hosts[index], start)
        return arranged(hosts, len(self.levels), goal, moved=self.moved | set(starts))


def arranged(
    hosts: Iterable[Host], num_blocks: int, goal: float, *, moved: Iterable[int] = ()
) -> Arrangement:
    """An arrangement of hosts; `goal` is the bound, and `moved` says which are not where they
    were."""
    hosts = tuple(hosts)
    found = levels(hosts, num_blocks, enough=ENOUGH * goal)
    return Arrangement(hosts, found, pain(found, goal), frozenset(moved))


def begun_at(host: Host, start: int) -> Host:
    """The same host with its span elsewhere."""
    return Host(Span(start, start + len(host.span)), host.speed, host.fits)


def pain(found: Iterable[float], goal: float) -> float:
    """How far levels are from the goal, poor blocks counting by far the most."""
    return sum((level / goal + HOLE) ** -4 for level in found)


def eased(
    found: Sequence[float], size: int, speed: float, starts: Iterable[int], goal: float
) -> dict[int, float]:
    """The pain that a span of `size` blocks and that speed takes away from levels, by its start.

    As if others went on giving what they give: they may do better, so this is a guess.
    """
    before = [pain([level], goal) for level in found]
    return {
        start: sum(before[start : start + size])
        - pain(_filled(found[start : start + size], speed), goal)
        for start in starts
    }


def edges_of(hosts: Iterable[Host], num_blocks: int) -> frozenset[int]:
    """Where spans begin and end."""
    spans = [host.span for host in hosts]
    return frozenset({0, num_blocks, *(s.start for s in spans), *(s.end for s in spans)})


def _filled(window: Sequence[float], speed: float) -> list[float]:
    """Levels after pouring `speed` over them: the poorest rise together, as water does."""
    rising = sorted(window)
    left = speed
    for count, (low, high) in enumerate(pairwise([*rising, float("inf")]), start=1):
        if (high - low) * count >= left:
            surface = low + left / count
            return [surface] * count + rising[count:]
        left -= (high - low) * count
    raise AssertionError("the last step is infinitely high")
