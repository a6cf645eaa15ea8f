"""Picks, of the workers of a swarm view, those that a route may well run through. Pure.

A view serves for many plans, and of most of its workers nothing is known but what they announce.
What that comes to is laid out once for all plans.
"""

from collections.abc import Callable, Iterable, Mapping, Set

from shared.costs import Offer, Prices, pace_of
from shared.swarm import Announcement, PeerId, Span, SwarmView

CHOICES = 5
"""Of the workers that host a block so many are looked at, the cheapest for what they host. Of 1,000
on 100 blocks, that makes routes 0.5 % worse on average than looking at all, in a tenth of the time:
see tests/bench/routing.py."""


class Roster:
    """The workers of one view that host blocks of a model of so many, and that stay."""

    def __init__(self, view: SwarmView, num_blocks: int) -> None:
        self._workers = [
            announced
            for _, announced in sorted(view.items())
            if announced.num_blocks == num_blocks and not announced.leaving
        ]
        self._index = {announced.worker: n for n, announced in enumerate(self._workers)}
        self._blocks = [_bits(announced.span) for announced in self._workers]
        paces = map(pace_of, self._workers)
        self._terms = [
            (pace.decode[0], pace.prefill, 1 / len(announced.span))
            for pace, announced in zip(paces, self._workers, strict=True)
        ]

    def get(self, worker: PeerId) -> Announcement | None:
        """What a worker announced."""
        index = self._index.get(worker)
        return None if index is None else self._workers[index]

    def usable(self, span: Span, avoid: Set[PeerId]) -> list[Announcement]:
        """Those that host blocks of a span."""
        return [a for a in self._workers if a.worker not in avoid and a.span.overlaps(span)]

    def shortlist(
        self,
        prices: Prices,
        span: Span,
        *,
        avoid: Set[PeerId],
        trusted: Set[PeerId] | None,
        need_room: bool = True,
    ) -> list[Offer]:
        """For every block the cheapest of those that run it, and of those that may see tokens."""
        workers = self._workers
        known = {
            index: prices.offer(workers[index], span, trusted)
            for worker in prices.known
            if (index := self._index.get(worker)) is not None and workers[index].span.overlaps(span)
        }
        barred = {self._index.get(worker) for worker in avoid}

        def offer_of(index: int) -> Offer | None:
            if index in barred:
                return None
            offer = known.get(index) or prices.offer(workers[index], span, trusted)
            return offer if offer.has_room or not need_room else None

        ranked = self._by_price(prices, known)
        chosen = self._first_for_each_block(ranked, span, offer_of)
        if trusted is not None:
            at_ends = [index for index in ranked if workers[index].worker in trusted]
            already = {offer.worker for offer in chosen}
            more = self._first_for_each_block(at_ends, span, offer_of)
            chosen += [offer for offer in more if offer.worker not in already]
        return chosen

    def _by_price(self, prices: Prices, known: Mapping[int, Offer]) -> list[int]:
        per_step, per_token, per_hop = prices.weights
        costs = [
            per_step * decode + per_token * prefill + per_hop * hops
            for decode, prefill, hops in self._terms
        ]
        for index, offer in known.items():
            costs[index] = offer.price
        return sorted(range(len(costs)), key=costs.__getitem__)

    def _first_for_each_block(
        self, ranked: Iterable[int], span: Span, offer_of: Callable[[int], Offer | None]
    ) -> list[Offer]:
        """The offers of the first CHOICES workers of every block; some workers make none."""
        blocks = self._blocks
        hosted = [_bits(span), *[0] * CHOICES]  # at [n], the blocks that n of the chosen host
        wanted = hosted[0]
        chosen: list[Offer] = []
        for index in ranked:
            if blocks[index] & wanted and (offer := offer_of(index)):
                chosen.append(offer)
                for count in range(CHOICES, 0, -1):
                    hosted[count] |= hosted[count - 1] & blocks[index]
                wanted = hosted[0] & ~hosted[CHOICES]
                if not wanted:
                    break
        return chosen


def _bits(span: Span) -> int:
    """A span as a number whose bits are blocks: whether two overlap is then quick to tell."""
    return (1 << span.end) - (1 << span.start)
