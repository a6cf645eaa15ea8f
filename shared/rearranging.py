"""Finds the few moves that make a placement better. Pure: the same hosts give the same moves.

A beam search. Only hosts that touch none of the poorest blocks can make those richer by a move
(those that touch them give them all they have), so these are tried, the most spare first; where
they leave a gap the next move may fill it. Hosts that do not say what fits were told what to host
and stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from shared.flow import Host, levels
from shared.swarm import Span

MAX_MOVES = 3
BEAM = 2
MAX_TRIED = 6
"""Hosts tried as the next to move, for each of the arrangements looked at."""
FEW = 100
"""Hosts up to which partial overlaps are tried."""
WORTH = 0.01
"""Least gain for each move, as a share of the throughput before."""
GOOD = 0.95
"""Share of the goal from which on only single moves are looked for."""
HOLE = 0.01
"""A share of the goal that makes a block without hosts terribly, but not infinitely, poor."""
ALIKE = 1e-6
"""Levels whose ratio is nearer to 1 than this are the same."""

Moves = dict[int, Span]
"""New spans by the index of their hosts."""


@dataclass(frozen=True)
class Arrangement:
    """Hosts after some moves."""

    hosts: tuple[Host, ...]
    levels: list[float]
    pain: float
    moved: tuple[int, ...] = ()

    @property
    def num_bare(self) -> int:
        """Blocks that nobody hosts."""
        return sum(level <= 0 for level in self.levels)


def rearrange(hosts: Sequence[Host], num_blocks: int, goal: float) -> Moves:
    """The moves worth making, nothing at all being the most usual; `goal` is the bound.

    Of all that were tried it is those that leave the fewest bare blocks, then give the most
    throughput, each move costing WORTH of it.
    """
    found = levels(hosts, num_blocks)
    now = Arrangement(tuple(hosts), found, pain(found, goal))
    beam, best, best_worth = [now], now, _worth(now, goal)
    for _ in range(MAX_MOVES):
        tried = [after for one in beam for after in _after_one_move(one, goal)]
        beam = sorted(tried, key=lambda one: one.pain)[:BEAM]
        for one in beam:
            if (worth := _worth(one, goal)) > best_worth:
                best, best_worth = one, worth
        if (best is not now and best.num_bare == 0) or min(now.levels) >= GOOD * goal:
            break  # one step at a time: whoever looks next sees further
    return {i: best.hosts[i].span for i in best.moved if best.hosts[i].span != hosts[i].span}


def pain(found: Sequence[float], goal: float) -> float:
    """How far levels are from the goal, poor blocks counting by far the most."""
    return sum((level / goal + HOLE) ** -4 for level in found)


def best_starts(
    found: Sequence[float], size: int, speed: float, edges: frozenset[int], goal: float
) -> list[int]:
    """Where a span of `size` blocks and that speed eases the most pain.

    Among equals those that end or begin where others do: they leave no odd rest to be covered, and
    routes need fewer hops.
    """
    best: list[int] = []
    best_key = (float("-inf"), 0)
    for start in range(len(found) - size + 1):
        window = found[start : start + size]
        eased = pain(window, goal) - pain(_filled(window, speed), goal)
        key = (float(f"{eased:.9g}"), (start in edges) + (start + size in edges))
        if key > best_key:
            best, best_key = [start], key
        elif key == best_key:
            best.append(start)
    return best


def edges_of(hosts: Sequence[Host], num_blocks: int) -> frozenset[int]:
    """Where spans begin and end."""
    spans = [host.span for host in hosts]
    return frozenset({0, num_blocks, *(s.start for s in spans), *(s.end for s in spans)})


def _after_one_move(one: Arrangement, goal: float) -> list[Arrangement]:
    poorest = min(one.levels) * (1 + ALIKE)
    least = [min(one.levels[host.span.start : host.span.end]) for host in one.hosts]
    spare = [
        index
        for index, host in enumerate(one.hosts)
        if host.fits and least[index] > poorest and index not in one.moved
    ]
    spare.sort(key=lambda index: (-least[index], -one.hosts[index].speed, index))
    return [_moved(one, index, goal) for index in spare[:MAX_TRIED]]


def _moved(one: Arrangement, index: int, goal: float) -> Arrangement:
    """What becomes of an arrangement when a host goes where that eases the most pain."""
    others = [*one.hosts[:index], *one.hosts[index + 1 :]]
    host, num_blocks = one.hosts[index], len(one.levels)
    without = levels(others, num_blocks)
    edges = edges_of(others, num_blocks)
    likely = best_starts(without, len(host.span), host.speed, edges, goal)[0]
    starts = {likely} if len(one.hosts) > FEW else {likely, *_overlapping(one, len(host.span))}
    tried: list[Arrangement] = []
    for start in sorted(starts - {host.span.start} or {likely}):
        moved = Host(Span(start, start + len(host.span)), host.speed, host.fits)
        hosts = (*one.hosts[:index], moved, *one.hosts[index + 1 :])
        found = levels(hosts, num_blocks)
        tried.append(Arrangement(hosts, found, pain(found, goal), (*one.moved, index)))
    return min(tried, key=lambda after: after.pain)


def _overlapping(one: Arrangement, size: int) -> set[int]:
    """Starts of spans of `size` that touch some of the poorest blocks from the left or right.

    Where few hosts share much, half a span beside them can be worth more than all of it on them.
    """
    poorest = min(one.levels) * (1 + ALIKE)
    blocks = [block for block, level in enumerate(one.levels) if level <= poorest]
    parts = {max(1, size * quarter // 4) for quarter in range(1, 4)}
    starts = {blocks[0] - size + part for part in parts} | {blocks[-1] + 1 - part for part in parts}
    return {start for start in starts if 0 <= start <= len(one.levels) - size}


def _worth(one: Arrangement, goal: float) -> tuple[int, float]:
    return (-one.num_bare, min(one.levels) - WORTH * goal * len(one.moved))


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
