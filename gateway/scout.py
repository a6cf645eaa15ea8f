"""Finds workers for one generation: for a gap in its route, or to shadow a hop."""

import asyncio
import time
from collections.abc import Set

import structlog

from gateway.blame import Blame
from gateway.links import Links
from shared.errors import NoRoute, PeerUnreachable
from shared.routing import plan_route
from shared.swarm import Hop, ModelSpec, PeerId, Route, Span

log = structlog.get_logger()

SEEK_SECONDS = 1.0
"""How long after a search in vain nobody is found to shadow a hop."""


class Scout:
    """Looks at the view with one generation's grudges in mind."""

    def __init__(self, spec: ModelSpec, links: Links, blame: Blame) -> None:
        self._spec = spec
        self._links = links
        self._blame = blame

    def find(self, span: Span, *, avoid: Set[PeerId] = frozenset()) -> Route:
        """Workers for a span, none of them leaving or held in blame. Raises NoRoute."""
        view = {
            worker: announcement
            for worker, announcement in self._links.watcher.view.items()
            if announcement.num_blocks == self._spec.num_blocks
        }
        held_in_blame = self._blame.avoided(time.monotonic()) | self._links.avoided()
        return plan_route(
            view,
            span,
            avoid=held_in_blame | self._links.leaving | avoid,
            load={worker: status.sessions for worker, status in self._links.statuses.items()},
        )

    def can_do_without(self, worker: PeerId, route: Route) -> bool:
        """Whether others could take over what a worker does on a route."""
        try:
            for hop in route:
                if hop.worker == worker:
                    self.find(hop.span, avoid={worker})
        except NoRoute:
            return False
        return True

    async def seek_beside(self, hop: Hop, serving: Set[PeerId]) -> Route:
        """Workers to shadow a hop, linked to; none, after a while, if there are none.

        If possible they are not among those `serving` the generation already.
        """
        try:
            hops = self._find_beside(hop, serving)
            await self._links.prepare(hops)
        except (NoRoute, PeerUnreachable) as error:
            log.debug("no_shadow", span=str(hop.span), error=str(error))
            await asyncio.sleep(SEEK_SECONDS)
            return ()
        return hops

    def _find_beside(self, hop: Hop, serving: Set[PeerId]) -> Route:
        try:
            return self.find(hop.span, avoid=serving)
        except NoRoute:
            return self.find(hop.span, avoid={hop.worker})
