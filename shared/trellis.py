"""Finds the cheapest line of offers through a span of blocks. Pure.

At every block a session stays with its worker or crosses to another. Time grows evenly with the
blocks that a worker runs, so nothing is gained by crossing anywhere but where the one has no more
blocks or the other its first. At each of these edges the cheapest way to be with a certain worker
follows from those at the edges before, as in Viterbi's algorithm
(https://doi.org/10.1109/TIT.1967.1054010).
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

from shared.costs import Offer, Prices
from shared.swarm import Hop, PeerId, Route, Span


class Ends(NamedTuple):
    """What a route joins: the hops before and after it, or the gateway, for which None stands.

    Only `trusted` workers may be next to the gateway, as they see tokens; None trusts all.
    """

    before: PeerId | None = None
    after: PeerId | None = None
    trusted: Set[PeerId] | None = None


class Plan(NamedTuple):
    """A route and what it costs."""

    seconds: float
    route: Route


class Entered(NamedTuple):
    """The cheapest way to have all blocks before `block` run, and to go on with an offer."""

    seconds: float
    offer: Offer
    block: int
    before: "Entered | None" = None

    def until(self, edge: int) -> float:
        """What it costs to stay until an edge."""
        return self.seconds + (edge - self.block) * self.offer.block_seconds


Standing = tuple[float, Entered]
"""What it costs to be at an edge, and how one came there."""


class Trellis:
    """The ways through a span between two ends. With `whole`, each offer is used whole or not."""

    def __init__(self, prices: Prices, span: Span, ends: Ends, *, whole: bool = False) -> None:
        self._prices = prices
        self._span = span
        self._ends = ends
        self._whole = whole

    def cheapest(self, offers: Sequence[Offer]) -> Plan | None:
        """The cheapest plan; of equals that with the fewest hops; none where there is a gap."""
        entered: dict[int, Entered] = {}
        for edge, starting, going_on in _edges(offers, self._span):
            if edge == self._span.start:
                entered = {id(offer): at for offer in starting if (at := self._first(offer))}
                continue
            all_here = _by_cost(entered.values(), edge)
            done = [standing for standing in all_here if standing[1].offer.end == edge]
            for _, at in done:
                del entered[id(at.offer)]
            if edge == self._span.end:
                return self._best_of(done)
            crossings = [(offer, done if self._whole else all_here) for offer in starting]
            if done and not self._whole:
                crossings += [(offer, done) for offer in going_on]
            for offer, origins in crossings:
                if at := self._crossed(offer, edge, entered.get(id(offer)), origins):
                    entered[id(offer)] = at
        return None

    def _first(self, offer: Offer) -> Entered | None:
        before = self._ends.before
        if before is None and not offer.sees_tokens:
            return None
        way = self._prices.way_to_end(offer, before)
        return Entered(way + offer.hop_seconds, offer, self._span.start)

    def _crossed(
        self, offer: Offer, edge: int, stayed: Entered | None, origins: Sequence[Standing]
    ) -> Entered | None:
        """The cheapest way to be at an edge with an offer: by staying, or by crossing to it."""
        least = stayed.until(edge) if stayed else float("inf")
        best: Entered | None = None
        way, hop_seconds = self._prices.way, offer.hop_seconds
        for standing, origin in origins:
            seconds = standing + hop_seconds
            if seconds >= least:
                break  # those after it cost more, before the way is even counted
            seconds += way(origin.offer, offer)
            if seconds < least and origin.offer.worker != offer.worker:
                best, least = origin, seconds
        return Entered(least, offer, edge, best) if best else stayed

    def _best_of(self, done: Iterable[Standing]) -> Plan | None:
        after = self._ends.after
        best: tuple[float, Entered] | None = None
        for standing, at in done:
            if not (after or at.offer.sees_tokens):
                continue
            way = self._prices.way_to_end(at.offer, after)
            if best is None or standing + way < best[0]:
                best = (standing + way, at)
        return Plan(best[0], _route_to(best[1], self._span.end)) if best else None


def _by_cost(entered: Iterable[Entered], edge: int) -> list[Standing]:
    standings = [(at.until(edge), at) for at in entered]
    standings.sort(key=lambda standing: (standing[0], standing[1].offer.worker))
    return standings


def _edges(offers: Sequence[Offer], span: Span) -> Iterator[tuple[int, list[Offer], list[Offer]]]:
    """Where offers begin or end, in order: those that begin there, and those that go on there."""
    starting: dict[int, list[Offer]] = {}
    for offer in offers:
        starting.setdefault(offer.start, []).append(offer)
    here: list[Offer] = []
    for edge in sorted({span.start, span.end, *starting, *(offer.end for offer in offers)}):
        here = [offer for offer in here if offer.end > edge]
        fresh = starting.get(edge, [])
        yield edge, fresh, here
        here = here + fresh


def _route_to(last: Entered, end: int) -> Route:
    hops: list[Hop] = []
    at: Entered | None = last
    while at is not None:
        hops.append(Hop(at.offer.worker, Span(at.block, end)))
        end, at = at.block, at.before
    return tuple(reversed(hops))
