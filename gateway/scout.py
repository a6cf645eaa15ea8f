"""Finds workers for one generation: for a gap in its route, or to shadow a hop."""

import asyncio
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import structlog

from gateway.blame import Blame
from gateway.links import Links
from shared.errors import NoRoute, PeerUnreachable
from shared.routing import Kept, plan_route
from shared.survey import Needs
from shared.swarm import Hop, PeerId, Route, Span, spliced
from shared.trellis import Ends

log = structlog.get_logger()

SEEK_SECONDS = 1.0
"""How long after a search in vain nobody is found to shadow a hop."""
USUAL_TOKENS = 256
"""What an answer is taken to grow to when it may be longer: few are."""


@dataclass(frozen=True)
class Wish:
    """What a generation wants of a route: to replay its text, and how much may follow."""

    text_tokens: int
    more_tokens: int
    row_bytes: int

    @property
    def needs(self) -> Needs:
        """As those who plan want it."""
        more = max(1, min(self.more_tokens, USUAL_TOKENS))
        return Needs(self.text_tokens, more, self.row_bytes)


class Scout:
    """Looks at the view with one generation's wishes and grudges in mind."""

    def __init__(
        self,
        links: Links,
        blame: Blame,
        wish: Callable[[], Wish],
        *,
        num_blocks: int,
        trusted: Set[PeerId] | None,
    ) -> None:
        self._links = links
        self._blame = blame
        self._wish = wish
        self._num_blocks = num_blocks
        self._trusted = trusted

    def find(
        self,
        span: Span,
        route: Route,
        *,
        avoid: Set[PeerId] = frozenset(),
        kept: Sequence[Kept] = (),
    ) -> Route:
        """Workers for a span of a route, none of them leaving or held in blame. Raises NoRoute."""
        held_in_blame = self._blame.avoided(time.monotonic()) | self._links.avoided()
        return plan_route(
            self._links.roster(self._num_blocks),
            span,
            survey=self._links.survey(),
            needs=self._wish().needs,
            avoid=held_in_blame | self._links.leaving | avoid,
            ends=self._ends(span, route),
            kept=kept,
        )

    def foresee(self, route: Route) -> None:
        """Have those who would take over from a hop link to its neighbours, before it is lost.

        In the middle of a refill the dials take processor time of the newcomer, and its neighbours'
        steps wait for them.
        """
        if not self._links.is_to_foresee(route):
            return
        for hop in route:
            try:
                hops = self.find(hop.span, route, avoid={hop.worker})
                self._links.acquaint(spliced(route, hop.span, hops))
            except (NoRoute, PeerUnreachable) as error:
                log.debug("no_one_instead", span=str(hop.span), error=str(error))

    def can_do_without(self, worker: PeerId, route: Route) -> bool:
        """Whether others could take over what a worker does on a route."""
        try:
            for hop in route:
                if hop.worker == worker:
                    self.find(hop.span, route, avoid={worker})
        except NoRoute:
            return False
        return True

    async def seek_beside(self, hop: Hop, route: Route, serving: Set[PeerId]) -> Route:
        """Workers to shadow a hop, linked to; none, after a while, if there are none.

        If possible they are not among those `serving` the generation already.
        """
        try:
            hops = self._find_beside(hop, route, serving)
            await self._links.prepare(hops)
        except (NoRoute, PeerUnreachable) as error:
            log.debug("no_shadow", span=str(hop.span), error=str(error))
            await asyncio.sleep(SEEK_SECONDS)
            return ()
        return hops

    def _find_beside(self, hop: Hop, route: Route, serving: Set[PeerId]) -> Route:
        try:
            return self.find(hop.span, route, avoid=serving)
        except NoRoute:
            return self.find(hop.span, route, avoid={hop.worker})

    def _ends(self, span: Span, route: Route) -> Ends:
        before = next((hop.worker for hop in route if hop.span.end == span.start), None)
        after = next((hop.worker for hop in route if hop.span.start == span.end), None)
        return Ends(before, after, self._trusted)
