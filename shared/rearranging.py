"""Finds the few moves that make a placement better. Pure: the same hosts give the same moves.

A beam search. A step is one host that goes elsewhere or, among few hosts, two of different size or
speed that change places. Where many hosts share the work only those that touch none of the poorest
blocks can make those richer by a move, so these are tried, the most spare first; where they leave a
gap the next move may fill it. Hosts that do not say what fits were told what to host and stay.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from shared.arrangement import Arrangement, arranged, eased, edges_of
from shared.dealing import MAX_DEALT, deal
from shared.flow import Host, levels
from shared.swarm import Span

FEW = 40
"""Hosts up to which all of them, and exchanges, are tried."""
MAX_STEPS = {True: 8, False: 3}
"""Of a search among few hosts that have no bare block, and of any other."""
BEAM = 2
MAX_TRIED = 6
"""Hosts with the most spare: of many hosts only these are tried as the next to move."""
MAX_PARTLY = 100
"""Hosts up to which those with the most spare are tried partly on the poorest blocks."""
NUM_STARTS = 2
"""The likeliest places for a host, all of which are tried."""
WORTH = 0.01
"""Least gain for each move, as a share of the goal: so much, or one worker's part if that is less.
Of 1,000 who share a hundred blocks none is worth a hundredth: a swarm that had lost all hosts of
some blocks would stay at 84 % for ever, where four moves more make it 97 %."""
FAIR = 0.9
"""Share of the goal below which a swarm that is out of service is dealt anew."""
GOOD = 0.95
"""Share of the goal from which on only single moves are looked for."""
LEAST_EASED = 0.01
"""Part of the pain that a step must take away for another to be looked for; or a worker's part."""
ALIKE = 1e-6
"""Levels whose ratio is nearer to 1 than this are the same."""

Moves = dict[int, Span]
"""New spans by the index of their hosts."""


def rearrange(
    hosts: Sequence[Host],
    num_blocks: int,
    goal: float,
    *,
    fixed: Collection[int] = (),
    is_out: bool = False,
) -> Moves:
    """The moves worth making, nothing at all being the most usual; `goal` is the bound.

    Of all that were tried it is those that leave the fewest bare blocks, then give the most
    throughput, each move costing `worth` of it. Hosts whose index is in `fixed` stay. With `is_out`
    nothing is served anyway, so that all may move at once.
    """
    found = _rearranged(tuple(hosts), num_blocks, goal, frozenset(fixed), is_out)
    return dict(found)


@lru_cache(maxsize=32)  # who looks again mostly sees the same
def _rearranged(
    hosts: tuple[Host, ...], num_blocks: int, goal: float, fixed: frozenset[int], is_out: bool
) -> Moves:
    now = arranged(hosts, num_blocks, goal)
    stay = {*fixed, *(index for index, host in enumerate(hosts) if not host.fits)}
    beam, best, least_eased = [now], now, min(LEAST_EASED, 1 / len(hosts))
    for _ in range(MAX_STEPS[len(hosts) <= FEW and not now.num_bare]):
        following = _best_of((after for one in beam for after in _steps(one, goal, stay)), goal)
        is_better = following and following[0].pain <= beam[0].pain * (1 - least_eased)
        if not following or not (is_better or now.num_bare):
            break
        beam = following
        best = max([best, *beam], key=lambda one: worth(one, goal))
        if (best is not now and best.throughput >= GOOD * goal) or now.throughput >= GOOD * goal:
            break  # one step at a time: whoever looks next sees further
    if is_out and not stay and len(hosts) <= MAX_DEALT and best.throughput < FAIR * goal:
        best = max(best, deal(hosts, num_blocks, goal), key=lambda one: worth(one, goal))
    return moves_between(now, best)


def moves_between(before: Arrangement, after: Arrangement) -> Moves:
    """What has to be done to come from one to the other."""
    pairs = enumerate(zip(before.hosts, after.hosts, strict=True))
    return {index: new.span for index, (old, new) in pairs if old.span != new.span}


def worth(one: Arrangement, goal: float) -> tuple[int, float]:
    """What arrangements that took so many moves are compared by."""
    least_gain = min(WORTH, 1 / len(one.hosts)) * goal
    return (-one.num_bare, one.throughput - least_gain * len(one.moved))


def best_starts(
    found: Sequence[float], size: int, speed: float, edges: frozenset[int], goal: float
) -> list[int]:
    """Where a span of `size` blocks and that speed eases the most pain.

    Among equals those that end or begin where others do: they leave no odd rest to be covered, and
    routes need fewer hops.
    """
    helps = eased(found, size, speed, range(len(found) - size + 1), goal)
    keys = {
        start: (float(f"{pain:.9g}"), (start in edges) + (start + size in edges))
        for start, pain in helps.items()
    }
    most = max(keys.values())
    return [start for start, key in keys.items() if key == most]


def _best_of(tried: Iterable[Arrangement], goal: float) -> list[Arrangement]:
    """Those with the least pain, of those that are alike the first."""
    distinct = {float(f"{one.pain:.6g}"): one for one in reversed(list(tried))}
    return [distinct[pain] for pain in sorted(distinct)[:BEAM]]


def _steps(one: Arrangement, goal: float, stay: Collection[int]) -> Iterable[Arrangement]:
    """All that may come next of an arrangement."""
    poorest = one.throughput * (1 + ALIKE)
    least = [min(one.levels[host.span.start : host.span.end]) for host in one.hosts]
    free = [index for index in range(len(one.hosts)) if index not in stay]
    spare = [index for index in free if least[index] > poorest and index not in one.moved]
    spare.sort(key=lambda index: (-least[index], -one.hosts[index].speed, index))
    spare = spare[:MAX_TRIED]
    for index in free if len(one.hosts) <= FEW else spare:
        partly = index in spare and len(one.hosts) <= MAX_PARTLY
        also = _overlapping(one, len(one.hosts[index].span)) if partly else ()
        yield from _moved(one, index, goal, also)
    if len(one.hosts) <= FEW and not one.num_bare:
        touching = [index for index in free if least[index] <= poorest]
        yield from _exchanged(one, touching, free, goal)


def _moved(one: Arrangement, index: int, goal: float, also: Iterable[int]) -> Iterable[Arrangement]:
    """What becomes of an arrangement when a host goes where that is likely to ease pain, or to
    one of the starts in `also`."""
    others = [*one.hosts[:index], *one.hosts[index + 1 :]]
    host, num_blocks = one.hosts[index], len(one.levels)
    size, last = len(host.span), num_blocks - len(host.span)
    edges = edges_of(others, num_blocks)
    starts = {min(last, edge) for edge in edges} | {max(0, edge - size) for edge in edges}
    without = levels(others, num_blocks)
    helps = eased(without, size, host.speed, sorted(starts - {host.span.start}), goal)
    likely = sorted(helps, key=lambda start: -helps[start])[:NUM_STARTS]
    for start in dict.fromkeys([*likely, *also]):
        yield one.with_moves({index: start}, goal)


def _overlapping(one: Arrangement, size: int) -> list[int]:
    """Starts of spans of `size` that touch some of the poorest blocks from the left or right.

    Where few hosts share much, half a span beside them can be worth more than all of it on them.
    """
    poorest = one.throughput * (1 + ALIKE)
    blocks = [block for block, level in enumerate(one.levels) if level <= poorest]
    parts = {max(1, size * quarter // 4) for quarter in range(1, 4)}
    starts = {blocks[0] - size + part for part in parts} | {blocks[-1] + 1 - part for part in parts}
    return sorted(start for start in starts if 0 <= start <= len(one.levels) - size)


def _exchanged(
    one: Arrangement, touching: Iterable[int], free: Iterable[int], goal: float
) -> Iterable[Arrangement]:
    """What becomes of it when a host of the poorest blocks changes places with another."""
    done = set[frozenset[int]]()
    for index in touching:
        for other in free:
            pair = frozenset({index, other})
            if pair not in done and not _alike(one.hosts[index], one.hosts[other]):
                done.add(pair)
                yield from _exchange(one, index, other, goal)


def _exchange(one: Arrangement, a: int, b: int, goal: float) -> Iterable[Arrangement]:
    """Each begins where the other began, or ends where it ended."""
    host, other, num_blocks = one.hosts[a], one.hosts[b], len(one.levels)
    size, size_of_other = len(host.span), len(other.span)
    starts = {(other.span.start, host.span.start)}
    starts.add((other.span.end - size, host.span.end - size_of_other))
    for start, start_of_other in sorted(starts):
        start = min(max(0, start), num_blocks - size)
        start_of_other = min(max(0, start_of_other), num_blocks - size_of_other)
        yield one.with_moves({a: start, b: start_of_other}, goal)


def _alike(host: Host, other: Host) -> bool:
    """Whether an exchange would change nothing."""
    return host.span == other.span or (len(host.span), host.speed) == (
        len(other.span),
        other.speed,
    )
