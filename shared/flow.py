"""How many tokens a second the hosts of a model's blocks can carry together. Pure.

A host does so many block-tokens a second, spent on its blocks as routes need: a span may be used
in part. So a placement is a flow from hosts to the blocks of their spans. Its *levels* are the
tokens a second of each block when the poorest block gets all it can, then the next poorest, and so
on; the lowest is the swarm's throughput. Spans are intervals, so Hall's condition for a level X,
that the hosts of any set of blocks do X for each of them, is checked over sets of intervals: what
is not in the set is a row of gaps, and only hosts inside a gap are of no use to the set.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.swarm import Span

EPSILON = 1e-9


@dataclass(frozen=True)
class Host:
    """Somebody's span and speed: `speed` is in block-tokens a second, `fits` in blocks."""

    span: Span
    speed: float
    fits: int = 0


def levels(hosts: Iterable[Host], num_blocks: int, *, enough: float = float("inf")) -> list[float]:
    """Tokens a second of every block, the poorest being as rich as they can be.

    Blocks that get `enough` may get more than is said.
    """
    land = _Land(hosts, num_blocks)
    found = [0.0] * num_blocks
    todo = [(0, len(land.points) - 1)]
    while todo:
        first, last = todo.pop()
        level, gaps = land.poorest(first, last)
        start, end = land.points[first], land.points[last]
        found[start:end] = [level] * (end - start)
        if level < enough:
            todo += gaps
    return found


def throughput(hosts: Iterable[Host], num_blocks: int) -> float:
    """Tokens a second of the whole model: the level of its poorest block."""
    land = _Land(hosts, num_blocks)
    return land.poorest(0, len(land.points) - 1)[0]


def bound(hosts: Sequence[Host], num_blocks: int) -> float:
    """The most tokens a second with whatever spans: no placement of these hosts can do better.

    A host of speed r with room for n blocks does at most min(r, n X) when every block gets X.
    """
    rooms = [(host.speed, min(num_blocks, max(host.fits, len(host.span)))) for host in hosts]
    rooms.sort(key=lambda pair: pair[0] / pair[1])
    # for any set of hosts: X num_blocks <= the speed of these + X times the room of the others;
    # the tightest sets are those first limited by their speed
    speed, room = 0.0, sum(room for _, room in rooms)
    best = 0.0 if room < num_blocks else float("inf")
    for of_host, room_of_host in rooms:
        speed, room = speed + of_host, room - room_of_host
        if room < num_blocks:
            best = min(best, speed / (num_blocks - room))
    return best


class _Land:
    """The model between the points where spans begin and end; intervals go from point to point."""

    def __init__(self, hosts: Iterable[Host], num_blocks: int) -> None:
        speeds: dict[tuple[int, int], float] = {}
        for host in hosts:
            key = (host.span.start, host.span.end)
            speeds[key] = speeds.get(key, 0.0) + host.speed
        self.points = sorted({0, num_blocks, *(point for key in speeds for point in key)})
        self._inside = self._sums(speeds)

    def poorest(self, first: int, last: int) -> tuple[float, list[tuple[int, int]]]:
        """The level of the poorest blocks of an interval, and the gaps where there can be more.

        By Dinkelbach's method. Counts hosts inside the interval only.
        """
        size = self.points[last] - self.points[first]
        total = self._inside[last][first]
        level, gaps = total / size, list[tuple[int, int]]()
        while level > 0:
            found = self._richest_gaps(first, last, level)
            num_left = size - sum(self.points[stop] - self.points[begin] for begin, stop in found)
            if not found or not num_left:
                break
            rest = total - sum(self._inside[stop][begin] for begin, stop in found)
            if rest >= num_left * level * (1 - EPSILON):
                break
            level, gaps = max(0.0, rest / num_left), found
        return (level if level * size > EPSILON * total else 0.0), gaps

    def _sums(self, speeds: dict[tuple[int, int], float]) -> list[list[float]]:
        """At [j][i], the speed of all hosts whose spans lie between points i and j."""
        index = {point: number for number, point in enumerate(self.points)}
        of_start = [dict[int, float]() for _ in self.points]
        for (start, end), speed in speeds.items():
            of_start[index[start]][index[end]] = speed
        num = len(self.points)
        table = [[0.0] * num for _ in self.points]
        below = [0.0] * num
        for i in range(num - 1, -1, -1):
            reached, ends = 0.0, of_start[i]
            for j in range(i + 1, num):
                reached += ends.get(j, 0.0)
                below[j] += reached
                table[j][i] = below[j]
        return table

    def _richest_gaps(self, first: int, last: int, level: float) -> list[tuple[int, int]]:
        """The disjoint intervals with the most speed beyond `level` for each of their blocks."""
        best, came_from = 0.0, [-1] * (last + 1)
        sums = [level * self.points[first]]  # the best up to a point, plus the level up to there
        for stop in range(first + 1, last + 1):
            inside = self._inside[stop]
            with_gap = [a + b for a, b in zip(sums, inside[first:stop], strict=True)]
            most = max(with_gap)
            if most - level * self.points[stop] > best * (1 + EPSILON):
                best = most - level * self.points[stop]
                came_from[stop] = first + with_gap.index(most)
            sums.append(best + level * self.points[stop])
        gaps: list[tuple[int, int]] = []
        stop = last
        while stop > first:
            begin = came_from[stop]
            if begin >= 0:
                gaps.append((begin, stop))
            stop = begin if begin >= 0 else stop - 1
        return gaps
