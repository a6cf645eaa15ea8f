"""Who has to give back what when a worker has no room left. Pure.

Gateways share a worker evenly: first the addresses they come from, so that taking many names gains
nothing, then the gateways of one address. One that is alone may have everything; when another
comes, it gets what is missing to its own share from whoever is furthest above theirs.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Set
from fractions import Fraction
from typing import NamedTuple

from shared.swarm import PeerId


class Shares(NamedTuple):
    """`total` of something, what each gateway holds of it, and where each is on the network."""

    total: int
    held: Mapping[PeerId, int]
    address_of: Callable[[PeerId], str]

    def allow(self, asker: PeerId, more: int) -> bool:
        """Whether one who gets `more` has no more than its share then."""
        return self.held.get(asker, 0) + more <= self._share(self._gateways(asker), asker)

    def debtor(self, asker: PeerId) -> PeerId | None:
        """Whoever is to give back first, or nobody when all others keep to their shares."""
        gateways = self._gateways(asker)
        over = [g for g in gateways - {asker} if self.held.get(g, 0) > self._share(gateways, g)]
        by_address = Counter[str]()
        for gateway, held in self.held.items():
            by_address[self.address_of(gateway)] += held
        return max(
            sorted(over),
            key=lambda g: (by_address[self.address_of(g)], self.held[g]),
            default=None,
        )

    def _gateways(self, asker: PeerId) -> Set[PeerId]:
        return {gateway for gateway, held in self.held.items() if held} | {asker}

    def _share(self, gateways: Set[PeerId], gateway: PeerId) -> Fraction:
        addresses = Counter(map(self.address_of, gateways))
        return Fraction(self.total, len(addresses) * addresses[self.address_of(gateway)])
