"""Decides which blocks a worker hosts, and whether it should move. Pure: chance is an argument.

Coverage comes first, then throughput, then spares. Both follow from one order: placements are
compared by the levels of their blocks (see shared/flow.py), poorest first. A block that nobody
hosts has level 0; where the poorest are alike the next poorest count; and a newcomer that can make
no block richer than the poorest still goes where there is least.

Nobody commands. Workers say what they are about to do (`next_span`), wait until that has spread,
look again with the plans of peers before them in the order of their ids taken as done, and go only
if it is still worth it. So two that saw the same need do not both answer it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import NamedTuple

from shared.arrangement import edges_of
from shared.flow import Host, bound, levels, throughput
from shared.rearranging import best_starts, rearrange
from shared.swarm import Announcement, PeerId, Span, SwarmView, uncovered

ENOUGH = 0.97
"""Share of the bound at which nobody moves."""
PATIENCE_SECONDS = 15.0
"""How long a hole must have lasted before workers that others need move to fill it.

With a lease, two looks and the load it must fit into the 60 s for which a gateway's streams wait.
"""
MAX_LIE = 64.0
"""A claimed speed counts as at most so many times the median, and at least as that part of it."""

Chance = Callable[[], float]
"""Gives numbers from 0 to 1, as `random.random` does."""


@dataclass(frozen=True)
class Hosting:
    """A worker as a planner sees it."""

    worker: PeerId
    host: Host
    is_serving: bool = True
    """Whether its span can be used now and in a while: it neither loads nor leaves."""


class Survey:
    """What planners must know of a swarm at one instant; costs are shared by all who ask."""

    def __init__(self, hostings: Sequence[Hosting], num_blocks: int) -> None:
        self.hostings = tuple(hostings)
        self.num_blocks = num_blocks

    @cached_property
    def levels(self) -> list[float]:
        """Tokens a second of every block, when all plans are done."""
        return levels(self.hosts, self.num_blocks)

    @cached_property
    def bound(self) -> float:
        """What no placement of these workers can exceed."""
        return bound(self.hosts, self.num_blocks)

    @cached_property
    def hosts(self) -> list[Host]:
        """Everybody, in the order of their ids."""
        return [hosting.host for hosting in self.hostings]

    @cached_property
    def moves(self) -> Mapping[PeerId, Span]:
        """What should change, if anything: the same for all who see the same."""
        if self.is_good_enough or not self.bound:
            return {}
        needed = [i for i, hosting in enumerate(self.hostings) if hosting.worker in self.needed]
        moves = rearrange(
            self.hosts,
            self.num_blocks,
            self.bound,
            fixed=() if self.is_out else needed,
            is_out=self.is_out,
        )
        return {self.hostings[index].worker: span for index, span in moves.items()}

    @cached_property
    def throughput_after(self) -> float:
        """The throughput when all of `moves` are done."""
        hosts = [
            replace(hosting.host, span=self.moves.get(hosting.worker, hosting.host.span))
            for hosting in self.hostings
        ]
        return throughput(hosts, self.num_blocks)

    def throughput_with(self, newcomer: Host) -> float:
        """The throughput with one more."""
        return throughput([*self.hosts, newcomer], self.num_blocks)

    @cached_property
    def num_serving(self) -> list[int]:
        """How many workers serve each block now."""
        counts = [0] * self.num_blocks
        for hosting in self.hostings:
            if hosting.is_serving:
                for block in range(hosting.host.span.start, hosting.host.span.end):
                    counts[block] += 1
        return counts

    @property
    def is_out(self) -> bool:
        """Whether some block has nobody who serves it now."""
        return min(self.num_serving) == 0

    @cached_property
    def needed(self) -> frozenset[PeerId]:
        """Those without whom some block would have nobody who serves it now."""
        return frozenset(
            hosting.worker
            for hosting in self.hostings
            if hosting.is_serving
            and min(self.num_serving[hosting.host.span.start : hosting.host.span.end]) < 2
        )

    @property
    def throughput(self) -> float:
        """The level of the poorest block."""
        return min(self.levels)

    @property
    def is_good_enough(self) -> bool:
        """Whether there is no reason for anybody to move."""
        return self.throughput > 0 and self.throughput >= ENOUGH * self.bound

    def levels_without(self, worker: PeerId) -> list[float]:
        """The levels if one of the workers were not there."""
        others = (hosting.host for hosting in self.hostings if hosting.worker != worker)
        return levels(others, self.num_blocks)


class Choice(NamedTuple):
    """A span to host, and the throughput of the swarm, all plans done, without and with it."""

    span: Span
    before: float
    after: float


def survey(view: SwarmView, num_blocks: int, *, before: PeerId | None = None) -> Survey:
    """What a view says to a planner.

    Plans count as done, so that nobody does the same again; those of workers that merely intend
    to move count only if their id comes before `before`, as that settles who goes first.
    """
    paces = [_speed(worker) for worker in view.values()]
    typical = median([pace for pace in paces if pace > 0] or [1.0])
    hostings = [
        _hosting(worker, _believed(_speed(worker), typical), before)
        for _, worker in sorted(view.items())
        if worker.num_blocks == num_blocks and _stays(worker, before)
    ]
    return Survey(hostings, num_blocks)


def is_torn(view: SwarmView, num_blocks: int) -> bool:
    """Whether no session can go through some block: one that leaves serves on until it is gone."""
    serving = [one for one in view.values() if one.num_blocks == num_blocks and one.dtype]
    return bool(uncovered((worker.span for worker in serving), Span(0, num_blocks)))


def typical_speed(view: SwarmView) -> float:
    """The median of what workers say of their speed, in block-tokens a second; 1 if none does."""
    return median([speed for worker in view.values() if (speed := _speed(worker)) > 0] or [1.0])


def choose_span(
    survey: Survey,
    num_fitting: int,
    speed: float,
    chance: Chance,
    *,
    preferred: Span | None = None,
) -> Choice:
    """The blocks where a newcomer helps most; among equal ones `preferred`, else as chance will.

    `num_fitting` is how many blocks it has room for, `speed` in block-tokens a second.
    """
    size = min(num_fitting, survey.num_blocks)
    hosts = survey.hosts
    newcomer = Host(Span(0, size), speed, size)
    goal = bound([*hosts, newcomer], survey.num_blocks) or speed / survey.num_blocks
    edges = edges_of(hosts, survey.num_blocks)
    starts = best_starts(survey.levels, size, speed, edges, goal)
    if preferred is not None and preferred.start in starts:
        starts = [preferred.start]
    start = starts[int(chance() * len(starts)) % len(starts)]
    span = Span(start, start + size)
    return Choice(span, survey.throughput, survey.throughput_with(Host(span, speed)))


def should_move(
    survey: Survey,
    worker: PeerId,
    *,
    reload_seconds: float = 60.0,
    horizon_seconds: float = 3600.0,
    hole_seconds: float = 0.0,
    least_gain: float = 0.01,
) -> Choice | None:
    """Where a worker should go, or None: by far the most often it should stay.

    It goes when it is part of the fewest moves that cover the model or are worth it: the gain over
    the horizon must exceed what the swarm does without while it reloads, and be at least that
    part of the throughput: speeds are measured, and differ each time. It leaves no hole, unless
    there has been one for `hole_seconds` of PATIENCE_SECONDS, when there is nothing to lose.
    """
    moves = survey.moves
    if worker not in moves:
        return None
    is_bare = survey.throughput == 0
    is_patient = survey.is_out and hole_seconds >= PATIENCE_SECONDS
    if not is_patient and worker in survey.needed:
        return None
    after = survey.throughput_after
    lost = max(0.0, survey.throughput - min(survey.levels_without(worker))) * reload_seconds
    gain = after - survey.throughput
    if not is_bare and gain <= max(lost / horizon_seconds, least_gain * survey.throughput):
        return None
    return Choice(moves[worker], survey.throughput, after)


def _hosting(worker: Announcement, speed: float, before: PeerId | None) -> Hosting:
    if worker.next_span is None or not _heeds(worker, before):
        return Hosting(worker.worker, Host(worker.span, speed, worker.fits))
    return Hosting(worker.worker, Host(worker.next_span, speed, worker.fits), is_serving=False)


def _stays(worker: Announcement, before: PeerId | None) -> bool:
    """Whether it hosts something, now or when its plan that counts is done."""
    return not worker.leaving or (worker.next_span is not None and _heeds(worker, before))


def _heeds(worker: Announcement, before: PeerId | None) -> bool:
    """Whether a plan counts as done."""
    return not worker.intends or before is None or worker.worker < before


def _speed(worker: Announcement) -> float:
    """Block-tokens a second with many sessions at once; 0 when it does not say."""
    if worker.speed:
        return worker.speed
    if worker.pace.is_known:
        return worker.pace.block_tokens_per_second
    return worker.tokens_per_second * len(worker.span)


def _believed(speed: float, typical: float) -> float:
    """A claimed speed within bounds: one liar must not make a span look served by a hundred."""
    return min(max(speed or typical, typical / MAX_LIE), typical * MAX_LIE)
