"""Chooses the workers a session runs through. Pure: the same view gives the same route."""

from collections.abc import Mapping, Set

from shared.errors import NoRoute
from shared.swarm import Announcement, Hop, PeerId, Route, Span, SwarmView, uncovered

HOP_COST = 1.0
"""What crossing to one more worker costs, in the time of a whole model's blocks."""

LOAD_COST = 0.1
"""What each session already on a worker adds to the cost of its blocks."""


def plan_route(
    view: SwarmView,
    span: Span,
    *,
    avoid: Set[PeerId] = frozenset(),
    load: Mapping[PeerId, int] | None = None,
) -> Route:
    """The cheapest route through `span`: few hops and little loaded workers.

    `load` counts the sessions on each worker. A worker's span may be used in part. Raises
    NoRoute, naming the uncovered blocks, when some block has no worker outside `avoid`.
    """
    workers = sorted(
        (worker for worker in view.values() if worker.worker not in avoid and not worker.leaving),
        key=lambda worker: worker.worker,
    )
    best = _cheapest(workers, span, load or {})
    if span.end not in best:
        gaps = uncovered((worker.span for worker in workers), span)
        raise NoRoute(
            f"no worker serves blocks {', '.join(map(str, gaps))} of the model at the moment"
        )
    return _walk_back(best, span)


def _cheapest(
    workers: list[Announcement], span: Span, load: Mapping[PeerId, int]
) -> dict[int, tuple[float, Hop | None]]:
    """For every block that routes can reach, the least cost to get there and the hop that does.

    Hops always run to their worker's last block, as a shorter one never saves a hop.
    """
    best: dict[int, tuple[float, Hop | None]] = {span.start: (0.0, None)}
    for block in range(span.start, span.end):
        if block not in best:
            continue
        cost_here = best[block][0]
        for worker in workers:
            if not worker.span.start <= block < worker.span.end:
                continue
            end = min(worker.span.end, span.end)
            share = (end - block) / len(span)
            cost = cost_here + HOP_COST + share * LOAD_COST * load.get(worker.worker, 0)
            if end not in best or cost < best[end][0]:
                best[end] = (cost, Hop(worker.worker, Span(block, end)))
    return best


def _walk_back(best: dict[int, tuple[float, Hop | None]], span: Span) -> Route:
    hops: list[Hop] = []
    block = span.end
    while (hop := best[block][1]) is not None:
        hops.append(hop)
        block = hop.span.start
    return tuple(reversed(hops))
