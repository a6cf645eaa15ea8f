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
        known = {
            worker: prices.offer(announced, span, trusted)
            for worker in prices.known
            if (announced := self.get(worker)) and announced.span.overlaps(span)
        }

        def offer_of(announced: Announcement) -> Offer | None:
            if announced.worker in avoid:
                return None
            offer = known.get(announced.worker) or prices.offer(announced, span, trusted)
            return offer if offer.has_room or not need_room else None

        ranked = self._by_price(prices, known)
        chosen = self._first_for_each_block(ranked, span, offer_of)
        if trusted is not None:
            at_ends = [index for index in ranked if self._workers[index].worker in trusted]
            already = {offer.worker for offer in chosen}
            more = self._first_for_each_block(at_ends, span, offer_of)
            chosen += [offer for offer in more if offer.worker not in already]
        return chosen

    def _by_price(self, prices: Prices, known: Mapping[PeerId, Offer]) -> list[int]:
        per_step, per_token, per_hop = prices.weights
        costs = [
            per_step * decode + per_token * prefill + per_hop * hops
            for decode, prefill, hops in self._terms
        ]
        for worker, offer in known.items():
            costs[self._index[worker]] = offer.price
        return sorted(range(len(costs)), key=costs.__getitem__)

    def _first_for_each_block(
        self, ranked: Iterable[int], span: Span, offer_of: Callable[[Announcement], Offer | None]
    ) -> list[Offer]:
        """The offers of the first CHOICES workers of every block; some workers make none."""
        blocks, workers = self._blocks, self._workers
        missing = dict.fromkeys(range(span.start, span.end), CHOICES)
        wanted = _bits(span)
        chosen: list[Offer] = []
        for index in ranked:
            if blocks[index] & wanted and (offer := offer_of(workers[index])):
                chosen.append(offer)
                for block in range(offer.start, offer.end):
                    missing[block] -= 1
                    if not missing[block]:
                        wanted &= ~(1 << block)
                if not wanted:
                    break
        return chosen


def _bits(span: Span) -> int:
    """A span as a number whose bits are blocks: whether two overlap is then quick to tell."""
    return (1 << span.end) - (1 << span.start)
