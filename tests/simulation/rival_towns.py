"""Swarms that follow Petals' or Parallax's rule, with perfect views: the best case for both."""

import random
from collections.abc import Sequence

from shared.flow import Host, bound, throughput
from shared.rivals import parallax_spans, parallax_start, petals_blocks, petals_move, petals_start
from shared.swarm import Span
from tests.simulation.placement import Machine

PETALS_ROUNDS = 10
"""Times everybody thinks about moving after a change, one after the other."""


class RivalTown:
    """Hosts, moved at once and without cost; `_joined` and `_settle` are the rule."""

    def __init__(self, num_blocks: int, seed: int) -> None:
        self.num_blocks = num_blocks
        self.hosts: list[Host] = []
        self.num_moves = 0
        self._chance = random.Random(seed)

    def join(self, machine: Machine) -> None:
        """Somebody comes and is placed."""
        fits = min(machine.fits, self.num_blocks)
        start = self._start_of(fits)
        self.hosts.append(Host(Span(start, start + fits), machine.speed, fits))

    def lose(self, indices: Sequence[int]) -> None:
        """They are gone."""
        gone = set(indices)
        self.hosts = [host for index, host in enumerate(self.hosts) if index not in gone]

    def settle(self) -> None:
        """The others do what the rule says."""
        raise NotImplementedError

    def _start_of(self, fits: int) -> int:
        raise NotImplementedError

    @property
    def efficiency(self) -> float:
        """Throughput, as a share of what no placement exceeds; 1 if that is 0."""
        best = bound(self.hosts, self.num_blocks)
        return throughput(self.hosts, self.num_blocks) / best if best else 1.0

    def _move(self, index: int, span: Span) -> None:
        host = self.hosts[index]
        self.num_moves += span != host.span
        self.hosts[index] = Host(span, host.speed, host.fits)


class PetalsTown(RivalTown):
    """Everybody looks again and again, and moves for a third more."""

    def settle(self) -> None:
        for _ in range(PETALS_ROUNDS):
            order = list(range(len(self.hosts)))
            self._chance.shuffle(order)
            moves = [self._look(index) for index in order]
            if not any(moves):
                return

    def _look(self, index: int) -> bool:
        seed = self._chance.getrandbits(32)
        span = petals_move(self.hosts, index, self.num_blocks, seed)
        if span is not None:
            self._move(index, span)
        return span is not None

    def _start_of(self, fits: int) -> int:
        return petals_start(petals_blocks(self.hosts, self.num_blocks), fits)


class ParallaxTown(RivalTown):
    """Dealt anew when a block has no host; those who are not dealt any keep what they have."""

    def settle(self) -> None:
        if throughput(self.hosts, self.num_blocks) > 0:
            return
        for index, span in enumerate(parallax_spans(self.hosts, self.num_blocks)):
            if span is not None:
                self._move(index, span)

    def _start_of(self, fits: int) -> int:
        return parallax_start(self.hosts, self.num_blocks, fits)
