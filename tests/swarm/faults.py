"""What goes wrong in a chaos run: faults drawn from a seed, and how each is done."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tests.swarm.forwarder import Line, Pipe, Way
from tests.swarm.ledger import Ledger
from tests.swarm.members import Member, Population

Kind = Literal[
    "kill",  # SIGKILL, and another worker in its place
    "freeze",  # SIGSTOP for good, and another worker in its place
    "leave",  # SIGTERM, and another worker in its place
    "join",  # one worker more, until its span loses one
    "stop",  # SIGSTOP for a while
    "cut",  # connections end
    "half frame",  # connections end within a frame
    "garbage",  # bytes between two frames that mean nothing
    "stall",  # connections pass nothing on for a while
    "black hole",  # connections lose what they are given, then end
    "delay",  # connections are slow for a while
    "disconnect",  # a client goes away
]
HARSH = ("kill", "freeze", "leave", "stop", "stall", "black hole")
"""These wait for a twin that is well. After the others a worker is back within seconds."""

BRIEF = ("cut", "half frame", "garbage")
SHAKY_SECONDS = 5.0
"""How long these may take to show, and a worker to announce itself again."""

WEIGHTS: Mapping[Kind, int] = {
    "kill": 12,
    "freeze": 4,
    "leave": 9,
    "join": 3,
    "stop": 12,
    "cut": 14,
    "half frame": 10,
    "garbage": 12,
    "stall": 10,
    "black hole": 8,
    "delay": 6,
    "disconnect": 10,
}
CHURN: Mapping[Kind, int] = {"kill": 3, "leave": 3, "join": 2, "disconnect": 3}
"""For a soak: who comes and who goes."""

LEAVE_SECONDS = 45.0
"""How long a worker may take to end: its default grace and then some."""
FROZEN_SECONDS = 60.0
"""How long a frozen worker stands before it is killed, so that they do not pile up."""
MAX_DELAY_SECONDS = 0.15
MAX_LATE = 3
"""Newcomers in a row that may not be up in time."""


@dataclass(frozen=True)
class Fault:
    """One thing to go wrong. `pick` in [0, 1) chooses among whatever it could hit."""

    kind: Kind
    pick: float
    seconds: float
    way: Way | None
    hits_all: bool
    is_rude: bool
    noise: random.Random


def draw(rng: random.Random, weights: Mapping[Kind, int], longest_seconds: float) -> Fault:
    """The next fault."""
    (kind,) = rng.choices(list(weights), list(weights.values()))
    return Fault(
        kind,
        pick=rng.random(),
        seconds=rng.uniform(min(1.0, longest_seconds), longest_seconds),
        way=rng.choice((None, "there", "back")),
        hits_all=rng.random() < 0.5,
        is_rude=rng.random() < 0.5,
        noise=random.Random(rng.getrandbits(64)),
    )


def garbage(rng: random.Random, *, is_masked: bool) -> bytes:
    """Bytes that no peer would send, some of them in the form of a WebSocket frame."""
    noise = rng.randbytes(rng.randint(1, 64))
    mask = rng.randbytes(4) if is_masked else b""
    flag = 0x80 if is_masked else 0
    length = bytes([flag | len(noise)])
    return rng.choice(
        [
            noise,
            b"\x82" + length + mask + noise,  # a binary message
            b"\x81" + length + mask + noise,  # a text
            b"\x8b" + length + mask + noise,  # of a kind that does not exist
            b"\x82" + bytes([flag | 127]) + (1 << 62).to_bytes(8, "big") + mask,  # without an end
            b"\x82" + bytes([flag | 126]) + b"\xff\xff" + mask,  # takes what follows for its own
        ]
    )


class Injector:
    """Does faults to a population."""

    def __init__(
        self,
        population: Population,
        ledger: Ledger,
        *,
        replicas: int,
        disconnect: Callable[[float], bool],
    ) -> None:
        """`disconnect` has one client go away, if there is any."""
        self._population = population
        self._ledger = ledger
        self._replicas = replicas
        self._disconnect = disconnect
        self._going_on: set[asyncio.Task[None]] = set()
        self._is_over = asyncio.Event()

    def strike(self, fault: Fault) -> bool:
        """Begin a fault, which then takes its time; whether there was anything to hit."""
        if fault.kind == "disconnect":
            return self._disconnect(fault.pick) and self._noted(fault, "a client")
        if fault.kind == "join":
            return self._join(fault)
        victims = [m for m in self._population.present if self._may_hit(fault.kind, m)]
        if not victims:
            return False
        victim = victims[int(fault.pick * len(victims))]
        self._noted(fault, f"{victim.process.name} (pid {victim.process.pid})")
        self._begin(self._do(fault, victim))
        return True

    async def finish(self) -> None:
        """Wait until every fault that was begun is over; who is frozen need not stand longer."""
        self._is_over.set()
        while self._going_on:
            await asyncio.wait(self._going_on)

    def _may_hit(self, kind: Kind, member: Member) -> bool:
        if kind in HARSH:
            return member.is_well and bool(self._population.twins(member))
        has_lines = bool(member.forwarder.lines)
        return has_lines and (member.is_well or bool(self._population.twins(member)))

    def _join(self, fault: Fault) -> bool:
        few = [s for s, n in self._population.counts().items() if n <= self._replicas]
        if not few:
            return False
        span = few[int(fault.pick * len(few))]
        self._begin(self._come(span))
        return self._noted(fault, span)

    def _noted(self, fault: Fault, target: str) -> bool:
        self._ledger.struck(
            time.monotonic(), fault.kind, f"{target}, {fault.seconds:.1f} s, {fault.way or 'both'}"
        )
        return True

    def _begin(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        self._going_on.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._going_on.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._ledger.complain(f"a fault went wrong: {error!r}")

    async def _do(self, fault: Fault, victim: Member) -> None:
        match fault.kind:
            case "kill":
                victim.process.signal(signal.SIGKILL)
                self._population.lose(victim)
                await self._bury(victim)
                await self._replace(victim)
            case "freeze":
                victim.process.signal(signal.SIGSTOP)
                self._population.lose(victim)
                await self._replace(victim)
                await self._frozen()
                victim.process.signal(signal.SIGKILL)
                await self._bury(victim)
            case "leave":
                victim.process.signal(signal.SIGTERM)
                self._population.lose(victim)
                await self._replace(victim)
                await self._bury(victim)
            case _:
                await self._trouble(fault, victim)

    async def _trouble(self, fault: Fault, victim: Member) -> None:
        """What a worker gets over."""
        with self._population.hurting(victim):
            async with self._acting(fault, victim):
                await asyncio.sleep(SHAKY_SECONDS if fault.kind in BRIEF else fault.seconds)
            await self._back(fault.kind, victim)

    @asynccontextmanager
    async def _acting(self, fault: Fault, victim: Member) -> AsyncIterator[None]:
        lines = self._lines(fault, victim)
        pipes = [pipe for line in lines for pipe in line.pipes(fault.way)]
        match fault.kind:
            case "stop":
                victim.process.signal(signal.SIGSTOP)
                yield
                victim.process.signal(signal.SIGCONT)
            case "delay":
                victim.forwarder.delay(fault.pick * MAX_DELAY_SECONDS)
                yield
                victim.forwarder.delay(0)
            case "stall":
                for pipe in pipes:
                    pipe.stall()
                yield
                for pipe in pipes:
                    pipe.resume()
            case _:
                self._break(fault, lines, pipes)
                yield
                if fault.kind == "black hole":
                    for line in lines:
                        line.cut(is_rude=fault.is_rude)

    def _break(self, fault: Fault, lines: list[Line], pipes: list[Pipe]) -> None:
        for line in lines if fault.kind == "cut" else ():
            line.cut(is_rude=fault.is_rude)
        for pipe in pipes:
            if fault.kind == "half frame":
                pipe.halve()
            elif fault.kind == "black hole":
                pipe.is_black_hole = True
            elif fault.kind == "garbage":
                is_masked = any(pipe is line.there for line in lines)
                pipe.inject(garbage(fault.noise, is_masked=is_masked))

    def _lines(self, fault: Fault, victim: Member) -> list[Line]:
        lines = list(victim.forwarder.lines)
        return lines if fault.hits_all else lines[int(fault.pick * len(lines)) :][:1]

    async def _replace(self, victim: Member) -> None:
        """Start another worker, unless the span has enough."""
        if self._population.counts()[victim.span] < self._replicas:
            await self._come(victim.span)

    async def _frozen(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FROZEN_SECONDS):
                await self._is_over.wait()

    async def _bury(self, victim: Member) -> None:
        """Wait for a process to end, and have nobody take its connections any more."""
        if not await victim.process.end(LEAVE_SECONDS):
            self._ledger.complain(f"{victim.process.name} does not end")
        await victim.forwarder.close()

    async def _come(self, span: str) -> None:
        """Have a worker join. On a busy machine one may not be up in time: another is tried."""
        for _ in range(MAX_LATE):
            try:
                await self._population.join(span)
            except TimeoutError:
                self._ledger.late += 1
            else:
                return
        self._ledger.complain(f"{MAX_LATE} newcomers for {span} were not up in time")

    async def _back(self, kind: Kind, victim: Member) -> None:
        try:
            self._ledger.came_back(kind, await self._population.seen(victim))
        except TimeoutError:
            self._ledger.complain(f"{victim.process.name} is not seen again after a {kind}")
