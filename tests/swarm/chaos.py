"""Streams that must not notice that everything around them goes wrong.

A swarm of real processes in which every span has twins answers clients without a pause, while
workers are killed, frozen, stopped and replaced, connections cut, stalled and spoiled, and clients
go away, as one seed says. Every stream is compared with the undisturbed answer to its request.
`python -m tests.swarm.chaos [--faults 500 | --minutes 30] [--seed N]`; exit status 1 when anything
was wrong.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from shared.swarm import Span
from shared.up import deal
from tests.swarm.crowd import Crowd
from tests.swarm.faults import CHURN, WEIGHTS, Injector, Kind, draw
from tests.swarm.ledger import Ledger
from tests.swarm.members import Population
from tests.swarm.nursery import Nursery, Nursling, nursery
from tests.swarm.report import Outcome, report, save_logs
from tests.swarm.streams import requests, undisturbed

MODEL = "chaos"
NUM_SPANS = 3
LEAK_SECONDS = 45.0
"""Within which sessions whose end a worker did not hear of are freed, see ORPHAN_SECONDS."""
SETTLE_POLL_SECONDS = 0.2
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Plan:
    """What a run is made of. With `minutes`, it ends after these and not after `faults`."""

    seed: int
    faults: int = 500
    minutes: float = 0.0
    every_seconds: float = 1.8
    longest_seconds: float = 20.0
    streams: int = 8
    tokens: int = 300
    replicas: int = 2
    weights: Mapping[Kind, int] = field(default_factory=lambda: WEIGHTS)
    gateway: tuple[str, ...] = ()


class Chaos:
    """One run."""

    def __init__(self, plan: Plan, home: Path, say: Callable[[str], None] = print) -> None:
        self.processes: list[Nursling] = []
        self._plan = plan
        self._home = home
        self._began = time.monotonic()
        self._tell = say
        self._outcome = Outcome(Ledger())

    async def run(self) -> Outcome:
        """Start a swarm, hear what is right, let things go wrong, look at what is left."""
        self._say(f"seed {self._plan.seed}")
        building = asyncio.create_task(asyncio.to_thread(_build, self._home / MODEL))
        async with nursery() as nest:
            population, url = await self._start(nest, await building)
            watching = asyncio.create_task(population.watch())
            try:
                await asyncio.gather(*(population.join(str(span)) for span in self._spans()))
                async with httpx.AsyncClient(
                    base_url=url, timeout=60, trust_env=False, limits=httpx.Limits()
                ) as client:
                    await self._disturb(population, client)
                    self._outcome.leaked = await self._leaked(population, client)
                    self._say(f"{self._outcome.leaked} sessions are left")
            finally:
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching
                self.processes += [member.process for member in population.members]
                await population.close()
        self._look_for_tracebacks()
        self._say("all processes have ended")
        return self._outcome

    def _say(self, text: str) -> None:
        self._tell(f"{time.monotonic() - self._began:5.0f} s: {text}")

    def _spans(self) -> list[Span]:
        from tests.models import NUM_BLOCKS  # torch: read while the nursery reads its own

        return deal(NUM_BLOCKS, NUM_SPANS) * self._plan.replicas

    async def _start(self, nest: Nursery, model: Path) -> tuple[Population, str]:
        """A bootstrap node and a gateway; where workers are to join."""
        first = await nest.start("bootstrap", "bootstrap", "--port=0", self._identity("b"))
        address = (await first.wait_for(" ready: ")).partition(" ready: ")[2].strip()
        common = [f"--model={model}", f"--join={address}"]
        gateway = await nest.start(
            *("gateway", "gateway", *common, "--port=0", self._identity("g")),
            *self._plan.gateway,
            is_fresh=True,
        )
        self.processes = [first, gateway]
        url = (await gateway.ready())["url"]
        worker = [*common, "--dtype=float32", "--threads=1", "--kv-tokens=65536"]
        return Population(nest, self._home, worker, url), url

    def _identity(self, name: str) -> str:
        return f"--identity={self._home / name}.key"

    async def _disturb(self, population: Population, client: httpx.AsyncClient) -> None:
        plan, ledger = self._plan, self._outcome.ledger
        wanted = requests(MODEL, plan.tokens)
        expected = await undisturbed(client, wanted)
        self._say(f"{len(population.members)} workers are up, {len(expected)} answers are known")
        crowd = Crowd(client, wanted, expected, ledger, population.were_bare)
        injector = Injector(population, ledger, replicas=plan.replicas, disconnect=crowd.disconnect)
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.ask(plan.streams, plan.seed))
            watching = group.create_task(self._watch(population, crowd))
            await self._strike(injector, started)
            self._say(f"{len(ledger.faults)} faults are begun: what goes on may end")
            crowd.enough()
            await injector.finish()
            watching.cancel()
        self._outcome.seconds = time.monotonic() - started
        self._say("all streams have ended: looking for what they left")

    async def _strike(self, injector: Injector, started: float) -> None:
        plan, ledger = self._plan, self._outcome.ledger
        rng = random.Random(plan.seed)

        def is_over() -> bool:
            if plan.minutes:
                return time.monotonic() > started + 60 * plan.minutes
            return len(ledger.faults) >= plan.faults

        while not is_over():
            await asyncio.sleep(rng.expovariate(1 / plan.every_seconds))
            while not injector.strike(draw(rng, plan.weights, plan.longest_seconds)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # nothing it could hit just now

    async def _watch(self, population: Population, crowd: Crowd) -> None:
        """Say how it goes, and note how much memory everybody holds."""
        ledger = self._outcome.ledger
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            now = time.monotonic()
            members = [member.process for member in population.present]
            for process in [self.processes[1], *members]:
                self._outcome.memory.sample(process.name, process.pid, now)
            self._say(
                f"{len(ledger.faults)} faults, {ledger.streams} streams ended, "
                f"{ledger.tokens + crowd.num_tokens} tokens, {ledger.wrong} wrong, "
                f"{ledger.lost} lost, {ledger.failed.total()} failed, "
                f"longest stall {max(ledger.worst_stall, crowd.silence):.1f} s"
            )

    async def _leaked(self, population: Population, client: httpx.AsyncClient) -> int:
        """Sessions that workers, or the gateway's picture of them, still hold after a while."""
        deadline = time.monotonic() + LEAK_SECONDS
        while True:
            held = [await member.sessions_and_pages(client) for member in population.present]
            told = (await client.get("/swarm")).json()["workers"]
            statuses = [worker["status"] for worker in told if worker["status"]]
            leaked = sum(sessions for sessions, _ in held)
            if not any(map(any, held)) and not any(s["sessions"] for s in statuses):
                return 0
            if time.monotonic() > deadline:
                self._outcome.ledger.complain(f"left (sessions, pages): {held}; told: {statuses}")
                return max(1, round(leaked))
            await asyncio.sleep(SETTLE_POLL_SECONDS)

    def _look_for_tracebacks(self) -> None:
        for process in self.processes:
            if any("Traceback" in line for line in process.lines):
                self._outcome.ledger.complain(f"a traceback in the log of {process.name}")


def _build(directory: Path) -> Path:
    from tests.models import build, save

    return save(build("llama", seed=7, max_position_embeddings=1024), directory)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    plan = Plan(0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--faults", type=int, default=plan.faults)
    parser.add_argument("--minutes", type=float, default=0.0, help="churn for so long instead")
    parser.add_argument("--every", type=float, default=plan.every_seconds, help="seconds")
    parser.add_argument("--longest", type=float, default=plan.longest_seconds, help="seconds")
    parser.add_argument("--streams", type=int, default=plan.streams)
    parser.add_argument("--tokens", type=int, default=plan.tokens)
    parser.add_argument("--replicas", type=int, default=plan.replicas)
    parser.add_argument("--only", action="append", choices=list(WEIGHTS), help="kind of fault")
    parser.add_argument("--gateway", action="append", default=[], help="an option of the gateway")
    parser.add_argument("--logs", type=Path, help="where to keep the logs; else only if wrong")
    return parser.parse_args(arguments)


def main() -> int:
    """Run as the command line says; returns the exit status."""
    options = _parse(sys.argv[1:])
    weights: Mapping[Kind, int] = CHURN if options.minutes else WEIGHTS
    if options.only:
        weights = {kind: 1 for kind in options.only}
    plan = Plan(
        options.seed,
        faults=options.faults,
        minutes=options.minutes,
        every_seconds=options.every,
        longest_seconds=options.longest,
        streams=options.streams,
        tokens=options.tokens,
        replicas=options.replicas,
        weights=weights,
        gateway=tuple(options.gateway),
    )
    with tempfile.TemporaryDirectory(prefix="chaos-") as home:
        chaos = Chaos(plan, Path(home), lambda text: print(text, flush=True))
        outcome = asyncio.run(chaos.run())
    report(plan.seed, outcome)
    logs = options.logs
    if outcome.verdict() and not logs:
        logs = Path(tempfile.mkdtemp(prefix=f"chaos-{plan.seed}-"))
    if logs:
        save_logs(chaos.processes, outcome.ledger, logs)
        print(f"  logs are in {logs}")
    return 1 if outcome.verdict() else 0


if __name__ == "__main__":
    sys.exit(main())
