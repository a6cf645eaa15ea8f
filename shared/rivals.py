"""What the placement rules of Petals and of Parallax would do, for comparison. Pure.

Written anew from their descriptions: Petals (arXiv:2312.08361, section 3.2) puts a newcomer where
the sorted throughputs of its window are least, and moves a server when a simulation in which
everybody moves ends a third better; Parallax (arXiv:2509.26182, section 3) deals the blocks of a
pipeline out by water-filling and gives later joiners the lightest layer.
"""

import random
from collections.abc import Callable, Sequence
from itertools import accumulate

from shared.flow import Host
from shared.swarm import Span

PETALS_QUALITY = 0.75
"""Petals moves when the throughput is below this part of what it expects after its moves."""
PETALS_EPSILON = 1e-3
MAX_PETALS_ROUNDS = 20
"""Of its simulation, which need not come to rest."""


def petals_blocks(hosts: Sequence[Host], num_blocks: int) -> list[float]:
    """Petals' throughput of each block: every server gives all of its to all of its blocks."""
    found = [0.0] * num_blocks
    for host in hosts:
        _add(found, host.span, host.speed / len(host.span))
    return found


def petals_start(found: Sequence[float], size: int) -> int:
    """Where Petals puts a newcomer: the window whose sorted throughputs come first."""
    starts = range(len(found) - size + 1)
    return min(starts, key=lambda start: (sorted(found[start : start + size]), start))


def petals_move(hosts: Sequence[Host], mine: int, num_blocks: int, seed: int) -> Span | None:
    """Where Petals would move the host at index `mine`, None for nowhere."""
    found = petals_blocks(hosts, num_blocks)
    initial = min(found)
    spans = [host.span for host in hosts]
    me = hosts[mine]
    _add(found, me.span, -_petals_weight(me) * (1 + PETALS_EPSILON))
    if initial > PETALS_EPSILON and min(found) <= 0:
        return None
    start = petals_start(found, len(me.span))
    target = Span(start, start + len(me.span))
    if target == me.span:
        return None
    _add(found, me.span, _petals_weight(me) * PETALS_EPSILON)
    spans[mine] = target
    _add(found, target, _petals_weight(me))
    _petals_settle(found, hosts, spans, random.Random(seed))
    expected = min(found)
    if expected < initial or expected < PETALS_EPSILON:
        return None
    return target if initial / expected < PETALS_QUALITY - PETALS_EPSILON else None


def _petals_settle(
    found: list[float], hosts: Sequence[Host], spans: list[Span], chance: random.Random
) -> None:
    """Let everybody move until nobody does any more, as Petals imagines it."""
    order = list(range(len(hosts)))
    for _ in range(MAX_PETALS_ROUNDS):
        chance.shuffle(order)
        has_moved = False
        for index in order:
            weight, span = _petals_weight(hosts[index]), spans[index]
            _add(found, span, -weight * (1 + PETALS_EPSILON))
            start = petals_start(found, len(span))
            _add(found, span, weight * PETALS_EPSILON)
            spans[index] = Span(start, start + len(span))
            _add(found, spans[index], weight)
            has_moved |= spans[index] != span
        if not has_moved:
            return


def parallax_spans(hosts: Sequence[Host], num_blocks: int) -> list[Span | None]:
    """What Parallax deals everybody anew; None for whom no whole pipeline is left.

    The number of pipelines k is the one with the most k² for each stage. Each takes the hosts
    with the most room that are left, its blocks dealt out by water-filling.
    """
    order = sorted(range(len(hosts)), key=lambda index: -hosts[index].fits)
    lines: list[list[int]] = []
    line: list[int] = []
    for index in order:
        line.append(index)
        if sum(hosts[member].fits for member in line) >= num_blocks:
            lines.append(line)
            line = []
    stages = list(accumulate(len(line) for line in lines))
    num_lines = max(range(len(lines)), key=lambda k: (k + 1) ** 3 / stages[k], default=-1) + 1
    spans: list[Span | None] = [None] * len(hosts)
    for line in lines[:num_lines]:
        start = 0
        for index, size in zip(line, _poured([hosts[i] for i in line], num_blocks), strict=True):
            if size:
                spans[index] = Span(start, start + size)
            start += size
    return spans


def parallax_start(hosts: Sequence[Host], num_blocks: int, size: int) -> int:
    """Where Parallax puts a later joiner: from the lightest layer on, as far as it has room."""
    loads = petals_blocks(hosts, num_blocks)
    return min(loads.index(min(loads)), num_blocks - size)


def _poured(line: Sequence[Host], num_blocks: int) -> list[int]:
    """Blocks of each host of a pipeline: in proportion to speed up to its room, whole numbers."""
    low, high = 0.0, num_blocks / min(host.speed for host in line)
    for _ in range(60):
        middle = (low + high) / 2
        total = sum(min(float(host.fits), middle * host.speed) for host in line)
        low, high = (middle, high) if total < num_blocks else (low, middle)
    exact = [min(float(host.fits), high * host.speed) for host in line]
    sizes = [int(share + 1e-6) for share in exact]
    by_rest: Callable[[int], float] = lambda index: sizes[index] - exact[index]  # noqa: E731
    for index in sorted(range(len(line)), key=by_rest):
        if sum(sizes) < num_blocks and sizes[index] < line[index].fits:
            sizes[index] += 1
    return sizes


def _petals_weight(host: Host) -> float:
    return host.speed / len(host.span)


def _add(found: list[float], span: Span, amount: float) -> None:
    for block in range(span.start, span.end):
        found[block] += amount
