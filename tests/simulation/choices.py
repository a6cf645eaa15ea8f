"""Other ways to choose routes, to compare ours with. Pure."""

from collections.abc import Mapping

from shared.errors import NoRoute
from shared.survey import Delays
from shared.swarm import Announcement, Hop, PeerId, Route, Span, SwarmView

PETALS_OVERHEAD_SECONDS = 0.018
"""What Petals adds for every server, whatever it measured."""


def petals_route(view: SwarmView, delays: Delays, between: Mapping[PeerId, Delays]) -> Route:
    """As Petals' clients choose for inference: the least delay and single-stream compute.

    From the description of its cost: each server is entered at any block and used to its end;
    neither load nor batches count. All delays are known here, of which Petals pings a few.
    """
    num_blocks = next(iter(view.values())).num_blocks
    best: dict[PeerId, tuple[float, Route]] = {}
    for block in sorted({0, *(w.span.end for w in view.values())} - {num_blocks}):
        for worker in _hosts(view, block):
            compute = (worker.span.end - block) * worker.pace.decode[0]
            hop = Hop(worker.worker, Span(block, worker.span.end))
            ways = (
                [(delays[worker.worker], ())]
                if block == 0
                else [
                    (seconds + between[origin][worker.worker], route)
                    for origin, (seconds, route) in best.items()
                    if view[origin].span.end == block
                ]
            )
            for seconds, route in ways:
                total = seconds + PETALS_OVERHEAD_SECONDS + compute
                if worker.worker not in best or total < best[worker.worker][0]:
                    best[worker.worker] = (total, (*route, hop))
    ends = [
        (seconds + delays[last], route)
        for last, (seconds, route) in best.items()
        if view[last].span.end == num_blocks
    ]
    if not ends:
        raise NoRoute("no line of servers reaches the last block")
    return min(ends)[1]


def shortest_queue_route(view: SwarmView, sessions: Mapping[PeerId, int]) -> Route:
    """At every block the worker with the fewest sessions; of equals that which reaches furthest."""
    num_blocks = next(iter(view.values())).num_blocks
    route: list[Hop] = []
    block = 0
    while block < num_blocks:
        hosts = _hosts(view, block)
        if not hosts:
            raise NoRoute(f"no worker serves block {block}")
        taken = min(hosts, key=lambda w: (sessions[w.worker], -w.span.end, w.worker))
        route.append(Hop(taken.worker, Span(block, taken.span.end)))
        block = taken.span.end
    return tuple(route)


def _hosts(view: SwarmView, block: int) -> list[Announcement]:
    return [w for w in view.values() if w.span.start <= block < w.span.end]
