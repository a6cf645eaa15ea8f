"""A swarm whose workers choose their spans and move, by themselves, over simulated hours.

Every worker has its own view, some seconds old; wakes when it pleases; takes time to load. Rules
are ours, Petals' or Parallax's; all are judged by the same flow and the same bound.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from shared.flow import Host, bound, throughput
from shared.placement import Survey, choose_span, should_move, survey
from shared.swarm import Announcement, PeerId, Span
from worker.steady import SteadySpeed

LEASE_SECONDS = 12.0
MAX_LAG_SECONDS = 5.0
SETTLE_SECONDS = 6.0
CHECK_SECONDS = 60.0
HURRY_SECONDS = 15.0
RELOAD_SECONDS = 120.0


@dataclass(frozen=True)
class Machine:
    """What a volunteer brings: room in blocks, speed in block-tokens a second."""

    fits: int
    speed: float


class RawSpeed(SteadySpeed):
    """Tells the last measurement, whatever it is."""

    def measure(self, measured: float) -> None:
        self.told = measured


@dataclass
class Story:
    """What happened, by the simulated clock."""

    moves: list[float] = field(default_factory=list[float])
    holes_made: int = 0
    bare_since: float | None = None
    bare_seconds: list[float] = field(default_factory=list[float])


class Town:
    """Workers that follow our rules.

    They measure anew each time they look whether to move: their speed, or down to the
    `noise`-th part of it, and tell the others what `speed_class` makes of that.
    """

    def __init__(
        self,
        num_blocks: int,
        seed: int,
        *,
        max_lag: float = MAX_LAG_SECONDS,
        noise: float = 1.0,
        speed_class: type[SteadySpeed] = SteadySpeed,
    ) -> None:
        self.num_blocks = num_blocks
        self.now = 0.0
        self.story = Story()
        self.alive: dict[PeerId, Announcement] = {}
        self._chance = random.Random(seed)
        self._max_lag = max_lag
        self._noise = noise
        self._speed_class = speed_class
        self._machines: dict[PeerId, Machine] = {}
        self._speeds: dict[PeerId, SteadySpeed] = {}
        self._seen: dict[PeerId, Announcement] = {}
        self._views: deque[tuple[float, dict[PeerId, Announcement]]] = deque([(0.0, {})])
        self._todo: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._surveys: dict[int, Survey] = {}

    # what happens to the swarm

    def join(self, machine: Machine) -> PeerId:
        """Somebody comes and looks for a span."""
        self._count += 1
        worker = PeerId(f"{self._chance.getrandbits(48):012x}")
        self._machines[worker] = machine
        self._speeds[worker] = self._speed_class(self._measured(worker))
        self._at(0.0, lambda: self._choose(worker, None))
        return worker

    def lose(self, workers: Sequence[PeerId]) -> None:
        """They die without a word: the others see them until their leases pass."""
        for worker in workers:
            self.alive.pop(worker, None)
        self._note_coverage()
        self._at(LEASE_SECONDS, lambda: self._forget(workers))

    def run(self, seconds: float) -> None:
        """Let time go by."""
        until = self.now + seconds
        while self._todo and self._todo[0][0] <= until:
            self.now, _, act = heapq.heappop(self._todo)
            act()
        self.now = until

    # what can be said of it

    @property
    def serving(self) -> list[Host]:
        """Those that serve now."""
        return [self._host_of(one) for one in self.alive.values() if not one.leaving]

    @property
    def efficiency(self) -> float:
        """Throughput, as a share of what no placement of those alive exceeds; 1 if that is 0."""
        everybody = self.hosts
        best = bound(everybody, self.num_blocks)
        return throughput(self.serving, self.num_blocks) / best if best else 1.0

    @property
    def is_covered(self) -> bool:
        """Whether every block is served."""
        return throughput(self.serving, self.num_blocks) > 0

    @property
    def is_possible(self) -> bool:
        """Whether those alive have room for all blocks."""
        return bound(self.hosts, self.num_blocks) > 0

    @property
    def hosts(self) -> list[Host]:
        """All that are alive, by what they host and truly can at this moment."""
        return [self._host_of(one) for one in self.alive.values()]

    # what workers do

    def _choose(self, worker: PeerId, before: Announcement | None) -> None:
        machine, speed = self._machines[worker], self._speeds[worker].told
        view = {w: a for w, a in self._view().items() if w != worker}
        seen = survey(view, self.num_blocks, before=worker if before else None)
        preferred = before.next_span if before else None
        span = choose_span(seen, machine.fits, speed, self._chance.random, preferred=preferred).span
        settled = before is not None and span == preferred
        announcement = _announcement(worker, machine.fits, speed, span, self.num_blocks)
        announcement = msgspec.structs.replace(announcement, intends=not settled)
        self._announce(announcement)
        if settled:
            self._at(RELOAD_SECONDS, lambda: self._loaded(worker))
        else:
            self._at(
                SETTLE_SECONDS,
                lambda: self._if_alive(worker, lambda now: self._choose(worker, now)),
            )

    def _loaded(self, worker: PeerId) -> None:
        def serve(now: Announcement) -> None:
            assert now.next_span
            self._announce(
                msgspec.structs.replace(now, span=now.next_span, next_span=None, leaving=False)
            )
            self._check_later(worker)

        self._if_alive(worker, serve)

    def _check(self, worker: PeerId) -> None:
        def check(now: Announcement) -> None:
            if now.leaving or now.next_span is not None:
                return
            now = self._measure(now)
            move = should_move(
                self._survey(),
                worker,
                reload_seconds=RELOAD_SECONDS,
                hole_seconds=self._hole_seconds,
            )
            if move is None:
                self._check_later(worker)
                return
            self._intend(now, move.span)

        self._if_alive(worker, check)

    def _intend(self, now: Announcement, span: Span) -> None:
        self._announce(msgspec.structs.replace(now, next_span=span, intends=True))
        self._at(SETTLE_SECONDS, lambda: self._if_alive(now.worker, self._confirm))

    def _confirm(self, now: Announcement) -> None:
        view = self._view() | {now.worker: now}
        seen = survey(view, self.num_blocks, before=now.worker)
        move = should_move(
            seen, now.worker, reload_seconds=RELOAD_SECONDS, hole_seconds=self._hole_seconds
        )
        if move is None:
            self._announce(msgspec.structs.replace(now, next_span=None, intends=False))
            self._check_later(now.worker)
        elif move.span != now.next_span:
            self._intend(now, move.span)
        else:
            self.story.moves.append(self.now)
            was_covered = self.is_covered
            self._announce(msgspec.structs.replace(now, leaving=True, intends=False))
            self.story.holes_made += was_covered and not self.is_covered
            self._at(RELOAD_SECONDS, lambda: self._loaded(now.worker))

    def _measure(self, now: Announcement) -> Announcement:
        """What a worker says after another measurement."""
        if self._noise == 1:
            return now
        speed = self._speeds[now.worker]
        speed.measure(self._measured(now.worker))
        if speed.told != now.speed:
            now = msgspec.structs.replace(now, speed=speed.told)
            self._announce(now)
        return now

    def _measured(self, worker: PeerId) -> float:
        return self._machines[worker].speed * self._noise ** -self._chance.random()

    def _check_later(self, worker: PeerId) -> None:
        self._at(CHECK_SECONDS * self._chance.uniform(0.5, 1.5), lambda: self._check(worker))

    # how news spread

    def _announce(self, announcement: Announcement) -> None:
        self.alive[announcement.worker] = announcement
        self._seen = self._seen | {announcement.worker: announcement}
        self._views.append((self.now, self._seen))
        self._note_coverage()

    def _forget(self, workers: Sequence[PeerId]) -> None:
        gone = set(workers)
        self._seen = {w: a for w, a in self._seen.items() if w not in gone}
        self._views.append((self.now, self._seen))
        if throughput(self.serving, self.num_blocks) == 0:
            for worker in self.alive:
                self._at(self._chance.uniform(1, HURRY_SECONDS), lambda w=worker: self._check(w))

    def _view(self) -> dict[PeerId, Announcement]:
        moment = self.now - self._chance.uniform(0, self._max_lag)
        while len(self._views) > 1 and self._views[1][0] <= self.now - self._max_lag:
            self._views.popleft()
        return next(
            view for at, view in reversed(self._views) if at <= moment or at == self._views[0][0]
        )

    def _survey(self) -> Survey:
        """What somebody sees who does not intend anything yet; the same view is surveyed once."""
        view = self._view()
        if id(view) not in self._surveys:
            kept = {id(one) for _, one in self._views}
            self._surveys = {key: value for key, value in self._surveys.items() if key in kept}
            self._surveys[id(view)] = survey(view, self.num_blocks)
        return self._surveys[id(view)]

    @property
    def _hole_seconds(self) -> float:
        since = self.story.bare_since
        return 0.0 if since is None else self.now - since - LEASE_SECONDS

    def _note_coverage(self) -> None:
        story = self.story
        if self.is_covered:
            if story.bare_since is not None:
                story.bare_seconds.append(self.now - story.bare_since)
            story.bare_since = None
        elif story.bare_since is None:
            story.bare_since = self.now

    def _host_of(self, one: Announcement) -> Host:
        return Host(one.span, self._machines[one.worker].speed, one.fits)

    def _if_alive(self, worker: PeerId, act: Callable[[Announcement], None]) -> None:
        if worker in self.alive:
            act(self.alive[worker])

    def _at(self, seconds: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._todo, (self.now + seconds, self._count, act))


def _announcement(
    worker: PeerId, fits: int, speed: float, span: Span, num_blocks: int
) -> Announcement:
    return Announcement(
        worker=worker,
        swarm="town",
        model="m",
        revision="r",
        span=span,
        num_blocks=num_blocks,
        url="ws://192.0.2.1:7000",
        dtype="float32",
        sequence=1,
        issued_at=0.0,
        lease_seconds=LEASE_SECONDS,
        leaving=True,
        speed=speed,
        fits=min(fits, num_blocks),
        next_span=span,
        intends=True,
    )
