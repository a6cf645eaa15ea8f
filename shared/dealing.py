"""Deals the blocks of a model out anew to few hosts, as well as can be found. Pure.

For when the swarm is out of service, hardly has room for the model and few moves do not help: then
whoever must move may as well go where all of them together do best. It depends on nothing but what
hosts there are, so that all who deal come to the same, also when some have moved already.
"""

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache

from shared.arrangement import Arrangement, arranged, begun_at
from shared.flow import Host
from shared.swarm import Span

MAX_DEALT = 24
"""Hosts up to which it is tried: beyond, few moves do."""
TRIES = 2000
"""Arrangements looked at, a second or two of computing."""
HEAT = 0.3
"""How many times as much pain is accepted at first, as a logarithm (simulated annealing)."""
GOOD = 0.97
FARTHEST_SLIDE = 30

Kind = tuple[int, float]
"""Size and speed of a host: who has the same may stand in for the other."""


def deal(hosts: Sequence[Host], num_blocks: int, goal: float) -> Arrangement:
    """The best arrangement found, with as many hosts as possible left where they are."""
    kinds = tuple(sorted(_kind(host) for host in hosts))
    starts: dict[Kind, list[int]] = {}
    for kind, start in zip(kinds, _starts(kinds, num_blocks, goal), strict=True):
        starts.setdefault(kind, []).append(start)
    dealt: dict[int, int] = {}
    for index, host in enumerate(hosts):  # who is right already stays
        if host.span.start in starts[_kind(host)]:
            starts[_kind(host)].remove(host.span.start)
            dealt[index] = host.span.start
    for index, host in enumerate(hosts):
        if index not in dealt:
            dealt[index] = starts[_kind(host)].pop()
    moved = [index for index, host in enumerate(hosts) if dealt[index] != host.span.start]
    hosts = [begun_at(host, dealt[index]) for index, host in enumerate(hosts)]
    return arranged(hosts, num_blocks, goal, moved=moved)


@lru_cache(maxsize=8)
def _starts(kinds: tuple[Kind, ...], num_blocks: int, goal: float) -> tuple[int, ...]:
    """Where hosts of these kinds should begin."""
    chance = random.Random(0)
    now = best = arranged(_in_a_row(kinds, num_blocks), num_blocks, goal)
    for tried in range(TRIES):
        if best.throughput >= GOOD * goal:
            break
        after = now.with_moves(_step(now, chance), goal)
        heat = HEAT * (1 - tried / TRIES) ** 2 + 1e-6
        if after.pain < now.pain or chance.random() < (now.pain / after.pain) ** (1 / heat):
            now = after
        best = max(best, now, key=lambda one: one.throughput)
    return tuple(host.span.start for host in best.hosts)


def _in_a_row(kinds: Sequence[Kind], num_blocks: int) -> Iterator[Host]:
    """One host after the other, and again from the first block."""
    reached = 0
    for size, speed in kinds:
        start = min(reached, num_blocks - size)
        reached = (start + size) % num_blocks
        yield Host(Span(start, start + size), speed, size)


def _step(now: Arrangement, chance: random.Random) -> dict[int, int]:
    """Other starts: of one host, of two that change places, or of neighbours that slide along."""
    hosts, num_blocks = now.hosts, len(now.levels)
    index, other = chance.randrange(len(hosts)), chance.randrange(len(hosts))
    start, slide = hosts[index].span.start, chance.choice((-2, -1, 1, 2))
    which = chance.random()
    if which < 0.35:
        starts = {index: start + slide}
    elif which < 0.6:
        starts = {index: chance.randrange(num_blocks)}
    elif which < 0.8:
        starts = {index: hosts[other].span.start, other: start}
    else:
        end = start + chance.randrange(4, FARTHEST_SLIDE)
        begins = ((i, host.span.start) for i, host in enumerate(hosts))
        starts = {i: begin + slide for i, begin in begins if start <= begin < end}
    return {i: min(max(0, s), num_blocks - len(hosts[i].span)) for i, s in starts.items()}


def _kind(host: Host) -> Kind:
    return len(host.span), host.speed
