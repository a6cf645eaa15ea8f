"""Sessions that arrive at random on uneven workers, to see which way of choosing routes does best.

Workers differ in speed and in place; they run what waits for the same blocks in one batch, as
worker/batcher.py does. Time is simulated. `python -m tests.simulation.traffic [--seeds 5]` prints
seconds per token, the wait for the first one included, for each way and rate of arrivals.
"""

import argparse
import heapq
import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from shared.costs import HOP_SECONDS
from shared.pace import Pace
from shared.roster import Roster
from shared.routing import plan_route
from shared.survey import Load, Needs, Survey
from shared.swarm import Announcement, PeerId, Route, Span
from tests.bench.tables import show
from tests.shared.announcing import announcement
from tests.simulation.choices import petals_route, shortest_queue_route

GATEWAY = PeerId("gateway")
MILLISECONDS_A_STEP = 0.04
"""Of delay, over a distance of one: from 0 to about 60 ms in the unit square."""
BUSY_SECONDS = 5.0


@dataclass(frozen=True)
class Scale:
    """How large a simulated swarm is, and what is asked of it."""

    workers: int = 60
    blocks: int = 80
    sessions: int = 200
    new_tokens: int = 64
    prompt_tokens: int = 128


@dataclass
class Session:
    """One generation on its way."""

    route: Route
    arrived: float
    tokens_left: int
    ended: float = math.nan


@dataclass(frozen=True)
class Visit:
    """A step at a hop."""

    session: Session
    hop: int
    tokens: int


@dataclass
class Machine:
    """A worker's queue and what its last seconds were like."""

    waiting: list[Visit] = field(default_factory=list[Visit])
    is_running: bool = False
    sessions: int = 0
    busy: float = 0.0
    busy_at: float = 0.0

    def busy_share(self, now: float) -> float:
        """As worker/pacer.py tells it."""
        return self.busy * math.exp(-(now - self.busy_at) / BUSY_SECONDS)

    def ran(self, now: float, seconds: float) -> None:
        """A forward has begun."""
        share = self.busy_share(now)
        self.busy = share + (1 - share) * (1 - math.exp(-seconds / BUSY_SECONDS))
        self.busy_at = now


class Swarm:
    """Workers on a plane, and what a gateway in its midst knows of them."""

    def __init__(self, scale: Scale, seed: int) -> None:
        rng = random.Random(seed)
        self.scale = scale
        self.view: dict[PeerId, Announcement] = {}
        self.places = {GATEWAY: (0.5, 0.5)}
        starts = _starts(scale, rng)
        for number in range(scale.workers):
            peer = PeerId(f"w{number:03}")
            start, length = next(starts)
            self.places[peer] = (rng.random(), rng.random())
            self.view[peer] = announcement(
                worker=peer,
                span=Span(start, start + length),
                num_blocks=scale.blocks,
                pace=_pace(rng),
            )
        self.roster = Roster(self.view, scale.blocks)
        self.delays = {peer: self.delay(GATEWAY, peer) for peer in self.view}
        self.between = {
            one: {other: self.delay(one, other) for other in self.view} for one in self.view
        }

    def delay(self, one: PeerId, other: PeerId) -> float:
        """Seconds from one to the other."""
        return 0.001 + MILLISECONDS_A_STEP * math.dist(self.places[one], self.places[other])


Choose = Callable[[Swarm, Mapping[PeerId, Machine], float], Route]


def our_route(swarm: Swarm, machines: Mapping[PeerId, Machine], now: float) -> Route:
    """As a gateway that counts its sessions plans it."""
    loads = {
        peer: Load(
            sessions=machine.sessions,
            queued_tokens=sum(visit.tokens for visit in machine.waiting),
            busy=machine.busy_share(now),
        )
        for peer, machine in machines.items()
    }
    return plan_route(
        swarm.roster,
        Span(0, swarm.scale.blocks),
        survey=Survey(swarm.delays, swarm.between, loads),
        needs=Needs(swarm.scale.prompt_tokens, swarm.scale.new_tokens),
    )


CHOICES: dict[str, Choose] = {
    "ours": our_route,
    "Petals": lambda swarm, machines, now: petals_route(swarm.view, swarm.delays, swarm.between),
    "shortest queue": lambda swarm, machines, now: shortest_queue_route(
        swarm.view, {peer: machine.sessions for peer, machine in machines.items()}
    ),
}


class Traffic:
    """One run: sessions arrive, choose their routes, and step until they are over."""

    def __init__(self, swarm: Swarm, choose: Choose, rate: float, seed: int) -> None:
        self._swarm = swarm
        self._choose = choose
        self._rng = random.Random(seed)
        self._rate = rate
        self._machines = {peer: Machine() for peer in swarm.view}
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = count()
        self.sessions: list[Session] = []

    def run(self) -> list[float]:
        """Seconds per token of every session."""
        at = 0.0
        for _ in range(self._swarm.scale.sessions):
            at += self._rng.expovariate(self._rate)
            self._at(at, self._arrive)
        while self._events:
            now, _, act = heapq.heappop(self._events)
            act(now)
        tokens = self._swarm.scale.new_tokens
        return [(session.ended - session.arrived) / tokens for session in self.sessions]

    def _at(self, time: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), act))

    def _arrive(self, now: float) -> None:
        route = self._choose(self._swarm, self._machines, now)
        session = Session(route, now, self._swarm.scale.new_tokens)
        self.sessions.append(session)
        for hop in route:
            self._machines[hop.worker].sessions += 1
        self._send(Visit(session, 0, self._swarm.scale.prompt_tokens), GATEWAY, now)

    def _send(self, visit: Visit, origin: PeerId, now: float) -> None:
        target = visit.session.route[visit.hop].worker
        arrives = now + HOP_SECONDS + self._swarm.delay(origin, target)
        self._at(arrives, lambda then: self._queue(target, visit, then))

    def _queue(self, worker: PeerId, visit: Visit, now: float) -> None:
        self._machines[worker].waiting.append(visit)
        self._run(worker, now)

    def _run(self, worker: PeerId, now: float) -> None:
        machine = self._machines[worker]
        if machine.is_running or not machine.waiting:
            return
        span = _span(machine.waiting[0])
        batch = _batch(machine.waiting, span)
        machine.waiting = [visit for visit in machine.waiting if visit not in batch]
        machine.is_running = True
        seconds = _forward_seconds(self._swarm.view[worker].pace, batch) * len(span)
        machine.ran(now, seconds)
        self._at(now + seconds, lambda then: self._ran(worker, batch, then))

    def _ran(self, worker: PeerId, batch: Sequence[Visit], now: float) -> None:
        self._machines[worker].is_running = False
        for visit in batch:
            if visit.hop + 1 < len(visit.session.route):
                self._send(replace(visit, hop=visit.hop + 1), worker, now)
            else:
                self._token(visit.session, now + self._swarm.delay(worker, GATEWAY))
        self._run(worker, now)

    def _token(self, session: Session, now: float) -> None:
        session.tokens_left -= 1
        if session.tokens_left:
            self._send(Visit(session, 0, 1), GATEWAY, now)
            return
        session.ended = now
        for hop in session.route:
            self._machines[hop.worker].sessions -= 1


def _starts(scale: Scale, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Where workers begin and how many blocks they host: lines through the model, one by one."""
    start = 0
    while True:
        length = min(rng.randint(scale.blocks // 10, scale.blocks // 3), scale.blocks - start)
        begin = max(0, start - rng.randint(0, 3))
        yield begin, start + length - begin
        start = (start + length) % scale.blocks


def _pace(rng: random.Random) -> Pace:
    """From a laptop to a good card: most of a factor of twenty."""
    alone = 0.004 * rng.lognormvariate(0, 0.8)
    crowd = rng.uniform(1.5, 6)  # the time of 32 sessions in that of one
    return Pace((alone, alone * (1 + (crowd - 1) / 4), alone * crowd), alone / 15)


def _span(visit: Visit) -> Span:
    return visit.session.route[visit.hop].span


def _batch(waiting: Sequence[Visit], span: Span) -> list[Visit]:
    """All decode steps for the span, and the prompt that has waited longest."""
    ready = [visit for visit in waiting if _span(visit) == span]
    decodes = [visit for visit in ready if visit.tokens == 1]
    prompts = [visit for visit in ready if visit.tokens > 1]
    return decodes + prompts[:1]


def _forward_seconds(pace: Pace, batch: Sequence[Visit]) -> float:
    """For a block."""
    num_decodes = sum(visit.tokens == 1 for visit in batch)
    prompt = sum(visit.tokens for visit in batch if visit.tokens > 1)
    return (pace.decode_seconds(num_decodes) if num_decodes else 0.0) + prompt * pace.prefill


def compare(scale: Scale, rate: float, seeds: Sequence[int]) -> dict[str, tuple[float, float]]:
    """Mean and 95th percentile of seconds per token, by the way routes are chosen."""
    found: dict[str, tuple[float, float]] = {}
    for name, choose in CHOICES.items():
        times = [t for seed in seeds for t in Traffic(Swarm(scale, seed), choose, rate, seed).run()]
        found[name] = (statistics.mean(times), statistics.quantiles(times, n=20)[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.2, 1.0, 4.0])
    options = parser.parse_args()
    scale = Scale()
    rows = [
        [f"{rate:g}", name, f"{1000 * mean:.0f}", f"{1000 * p95:.0f}"]
        for rate in options.rates
        for name, (mean, p95) in compare(scale, rate, range(options.seeds)).items()
    ]
    show(
        f"milliseconds per token: {scale.workers} uneven workers, {scale.blocks} blocks, "
        f"{options.seeds} times {scale.sessions} sessions of {scale.prompt_tokens} tokens read and "
        f"{scale.new_tokens} made",
        ["sessions/s", "routes", "mean", "p95"],
        rows,
    )


if __name__ == "__main__":
    main()
