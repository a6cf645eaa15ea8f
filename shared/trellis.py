"""Finds the cheapest line of offers through a span of blocks. Pure.

At every block a session stays with its worker or crosses to another. Time grows evenly with the
blocks that a worker runs, so nothing is gained by crossing anywhere but where the one has no more
blocks or the other its first. At each of these edges the cheapest way to be with a certain worker
follows from those at the edges before, as in Viterbi's algorithm
(https://doi.org/10.1109/TIT.1967.1054010).
"""

from collections.abc import Iterable, Sequence, Set
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from shared.costs import Offer, Prices
from shared.swarm import Hop, PeerId, Route, Span

INFINITY = float("inf")


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


Line: TypeAlias = "tuple[int, int, Line | None]"
"""The cheapest way found to an offer: the offer's number, its first block that is used, and the
line before. A bare tuple like the next: hundreds are made for a plan, and named ones cost a sixth
of its time."""

Standing = tuple[float, int]
"""What it costs to be at an edge with an offer, and the number of the offer."""


class Trellis:
    """The ways through a span between two ends. With `whole`, each offer is used whole or not."""

    def __init__(self, prices: Prices, span: Span, ends: Ends, *, whole: bool = False) -> None:
        self._prices = prices
        self._span = span
        self._ends = ends
        self._whole = whole

    def cheapest(self, offers: Sequence[Offer]) -> Plan | None:
        """The cheapest plan; of equals that with the fewest hops; none where there is a gap."""
        walk = Walk(self._prices, offers)
        starting = _by_start(walk.offers)
        outside = starting.pop(self._span.start, [])
        for number in outside:
            self._begin(walk, number)
        for edge in sorted({self._span.end, *starting, *walk.ends}):
            here = walk.standings(edge)
            done = [standing for standing in here if walk.ends[standing[1]] == edge]
            if edge == self._span.end:
                return self._best_of(walk, done)
            walk.leave(done)
            for number in starting.get(edge, []):
                walk.cross(number, edge, done if self._whole else here)
            if done and not self._whole:
                outside = walk.still_outside(outside, edge)
                for number in outside:
                    walk.cross(number, edge, done)
                walk.change(edge, here, done)  # last: lines that are changed here end no other
        return None

    def _begin(self, walk: "Walk", number: int) -> None:
        offer, before = walk.offers[number], self._ends.before
        if before or offer.sees_tokens:
            way = self._prices.way_to_end(offer, before)
            walk.enter(way + offer.hop_seconds, (number, self._span.start, None))

    def _best_of(self, walk: "Walk", done: Iterable[Standing]) -> Plan | None:
        after, offers = self._ends.after, walk.offers
        totals = [
            (standing + self._prices.way_to_end(offers[number], after), number)
            for standing, number in done
            if after or offers[number].sees_tokens
        ]
        if not totals:
            return None
        seconds, number = min(totals)
        return Plan(seconds, walk.route(number, self._span.end))


class Walk:
    """Where one can be on the way through a span, edge after edge, and the cheapest lines there.

    Offers go by numbers, in the order of workers' ids, which settles ties. What is asked of them
    most lies in lists: at each edge all that one can be with are looked at, and that is most of the
    work of a plan.
    """

    def __init__(self, prices: Prices, offers: Sequence[Offer]) -> None:
        self.offers = offers = sorted(offers, key=attrgetter("worker"))
        self.ends = [offer.end for offer in offers]
        self._way = prices.way
        self._block_seconds = [offer.block_seconds for offer in offers]
        self._least_entries = _least_entries(offers)
        self._bases: dict[int, float] = {}  # what being with an offer cost, had it run all blocks
        self._lines: dict[int, Line] = {}

    def standings(self, edge: int) -> list[Standing]:
        """Where one can be at an edge, the cheapest first."""
        rates = self._block_seconds
        return sorted(
            [(base + edge * rates[number], number) for number, base in self._bases.items()]
        )

    def enter(self, seconds: float, line: Line) -> None:
        """One can be with an offer at this cost, by this line."""
        self._bases[line[0]] = seconds - line[1] * self._block_seconds[line[0]]
        self._lines[line[0]] = line

    def leave(self, done: Iterable[Standing]) -> None:
        """These have no more blocks."""
        for _, number in done:
            del self._bases[number]

    def still_outside(self, outside: Iterable[int], edge: int) -> list[int]:
        """Of some offers those that one could not come to yet, as they may not be first."""
        return [n for n in outside if n not in self._bases and self.ends[n] > edge]

    def change(self, edge: int, here: Iterable[Standing], done: Sequence[Standing]) -> None:
        """Cross from those that are done to those that go on, where it is cheaper than staying."""
        cheapest, _ = done[0]
        least_entries, ends = self._least_entries, self.ends
        for stayed, number in here:
            if stayed > cheapest + least_entries[number] and ends[number] > edge:
                self.cross(number, edge, done, stayed)

    def cross(
        self, number: int, edge: int, origins: Iterable[Standing], least: float = INFINITY
    ) -> None:
        """Cross to an offer at an edge in the cheapest way, if that costs less than `least`."""
        offer, offers, way = self.offers[number], self.offers, self._way
        best, hop_seconds, least_entry = -1, offer.hop_seconds, self._least_entries[number]
        for standing, origin in origins:
            if standing + least_entry >= least:
                break  # those after it cost more, before the way is even counted
            seconds = standing + hop_seconds + way(offers[origin], offer)
            if seconds < least and offers[origin].worker != offer.worker:
                best, least = origin, seconds
        if best >= 0:
            self._bases[number] = least - edge * self._block_seconds[number]
            self._lines[number] = (number, edge, self._lines[best])

    def route(self, number: int, end: int) -> Route:
        """The line to an offer that runs the blocks up to the end."""
        hops: list[Hop] = []
        line: Line | None = self._lines[number]
        while line is not None:
            number, block, line = line
            hops.append(Hop(self.offers[number].worker, Span(block, end)))
            end = block
        return tuple(reversed(hops))


def _by_start(offers: Iterable[Offer]) -> dict[int, list[int]]:
    starting: dict[int, list[int]] = {}
    for number, offer in enumerate(offers):
        starting.setdefault(offer.start, []).append(number)
    return starting


def _least_entries(offers: Iterable[Offer]) -> list[float]:
    """What it costs at least to cross to an offer: a way that nobody measured costs no less than
    that from the gateway. Of a thousand workers most are such, so that one origin or two are looked
    at instead of all."""
    measured = set[PeerId]().union(*(offer.delays for offer in offers))
    return [
        o.hop_seconds + (0.0 if o.delays or o.worker in measured else o.way_seconds) for o in offers
    ]
