"""What a hop costs without compute: steps through workers whose blocks do nothing.

Three worker processes with the real server, sessions, engine thread and links, and a model that
returns zeros at once; decode steps of 4,096 bfloat16 values, one stream. A step of N hops takes
N+1 trips, so the cost of a hop is the difference between routes of three hops and of one, by
two: with links in the clear, under TLS, under TLS when each step begins a session of its own, whose
grants are checked on every hop, and under TLS when the workers are behind NAT, so that what one
pushes to the next goes through the gateway. `python -m tests.bench.hop`
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace

from shared import logs
from tests.bench.tables import show

HIDDEN_SIZE = 4096
NUM_BLOCKS = 3
SWARM = "bench"
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Case:
    """What is measured."""

    name: str
    has_tls: bool = True
    begins: bool = False
    """Whether each step begins a session."""
    is_relayed: bool = False
    """Whether workers have no links to each other."""


CASES = (
    Case("in the clear", has_tls=False),
    Case("TLS"),
    Case("TLS, a session's first step", begins=True),
    Case("TLS, through the gateway", is_relayed=True),
)


class IdleModel:
    """Stands in for a SpanModel: the shapes are right, the numbers are zero."""

    num_blocks = NUM_BLOCKS
    hidden_size = HIDDEN_SIZE
    vocab_size = 1000
    max_positions = 1 << 20
    batches = True
    device = SimpleNamespace(type="cpu")

    def run(self, inputs: Any, segments: Sequence[Any], active: Any, keep: Sequence[int]) -> Any:
        import torch

        if active.end == NUM_BLOCKS and keep:
            return torch.zeros(len(keep), self.vocab_size)
        return torch.zeros(len(inputs), HIDDEN_SIZE, dtype=torch.bfloat16)


def worker(pipe: Connection, has_tls: bool) -> None:
    """A worker process: sends its signed announcement, then serves until killed."""
    logs.set_up("warning")
    from shared.identity import Identity
    from shared.records import sign_announcement
    from shared.swarm import Announcement, Span
    from shared.wire.certificate import Certificate
    from worker.engine import Engine
    from worker.server import WorkerServer
    from worker.sessions import Sessions

    async def main() -> None:
        identity = Identity.create()
        span = Span(0, NUM_BLOCKS)
        model: Any = IdleModel()
        engine = Engine(model, max_step_tokens=2048)
        sessions = Sessions(
            span, pages_total=1 << 16, page_tokens=16, max_sessions=64, lease_seconds=60
        )
        server = WorkerServer(identity, SWARM, shape=model, sessions=sessions, engine=engine)
        engine.start()
        certificate = Certificate.create() if has_tls else None
        async with await server.pool.listen("127.0.0.1", 0, certificate=certificate) as listener:
            port = next(iter(listener.sockets)).getsockname()[1]
            announcement = Announcement(
                worker=identity.peer,
                swarm=SWARM,
                model="idle",
                revision="r",
                span=span,
                num_blocks=NUM_BLOCKS,
                url=f"{'wss' if has_tls else 'ws'}://127.0.0.1:{port}",
                dtype="bfloat16",
                sequence=1,
                issued_at=time.time(),
                lease_seconds=60,
                certificate=certificate.fingerprint if certificate else b"",
            )
            hidden = replace(announcement, url="", certificate=b"", attached=(identity.peer,))
            records = {
                is_relayed: sign_announcement(identity, one)
                for is_relayed, one in ((False, announcement), (True, hidden))
            }
            pipe.send((announcement, records))
            await asyncio.Event().wait()

    asyncio.run(main())


async def trips(
    workers: list[tuple[Any, dict[bool, bytes]]], num_hops: int, steps: int, case: Case
) -> list[float]:
    """Seconds from sending a decode step to its token, for each of `steps`.

    A session that begins with each has the one before it closed first.
    """
    from gateway.relays import Relays
    from gateway.surveyor import Surveyor
    from shared.grants import grant
    from shared.identity import Identity
    from shared.swarm import Hop, SessionId, Span
    from shared.wire.link import LinkPool
    from shared.wire.messages import Close, Introduce, Relay, Step, Tokens

    arrived: asyncio.Queue[Tokens] = asyncio.Queue()

    def on_frame(link: Any, frame: Any) -> None:
        if isinstance(frame.message, Tokens):
            arrived.put_nowait(frame.message)
        elif isinstance(frame.message, Relay):
            assert case.is_relayed
            assert not relays.pass_on(link.peer, frame.message, frame.payload)

    identity = Identity.create()
    pool = LinkPool(identity, SWARM, on_frame=on_frame)
    surveyor = Surveyor()
    relays = Relays(pool, surveyor)
    edges = [0, *range(NUM_BLOCKS - num_hops + 1, NUM_BLOCKS + 1)]
    hops = tuple(
        Hop(one.worker, Span(start, end))
        for (one, _), start, end in zip(workers, edges, edges[1:], strict=False)
    )
    links = [await pool.connect(one.worker, one.url, one.certificate) for one, _ in workers]
    for link in links:
        link.post(Introduce(tuple(records[case.is_relayed] for _, records in workers)))
    payload = array("i", [1]).tobytes()
    session, position, grants, seconds = SessionId(b""), 0, (), list[float]()
    for number in range(steps):
        if case.begins or not number:
            for link in links if number else ():
                link.post(Close(session))
            session, position = SessionId(os.urandom(16)), 0
            grants = tuple(grant(identity, session, hop.worker) for hop in hops)
            surveyor.engaged(session, [hop.worker for hop in hops])
        started = time.perf_counter()
        step = Step(session, 1, identity.peer, position, 1, hops, "int32", (position,))
        links[0].post(replace(step, grants=grants, relays=case.is_relayed), payload)
        await asyncio.wait_for(arrived.get(), ANSWER_SECONDS)
        seconds.append(time.perf_counter() - started)
        position += 1
    await pool.close()
    return seconds[steps // 10 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logs.set_up("warning")
    rows = [
        [case.name, *(f"{1000 * f(hops):.2f}" for f in (statistics.median, min, max))]
        for case in CASES
        for hops in [cost_of_a_hop(options.steps, options.rounds, case)]
    ]
    show(
        f"one more hop of a step without compute, {HIDDEN_SIZE} bfloat16 values, milliseconds",
        ["", "median", "best", "worst"],
        rows,
    )


def cost_of_a_hop(steps: int, rounds: int, case: Case) -> list[float]:
    """Seconds, for each round."""
    context = multiprocessing.get_context("spawn")
    running = [SimpleNamespace(pipes=context.Pipe()) for _ in range(3)]
    for entry in running:
        arguments = (entry.pipes[1], case.has_tls)
        entry.process = context.Process(target=worker, args=arguments, daemon=True)
        entry.process.start()
    try:
        workers = [entry.pipes[0].recv() for entry in running]
        medians: dict[int, list[float]] = {1: [], 3: []}
        for _ in range(rounds):
            for num_hops, found in medians.items():
                seconds = asyncio.run(trips(workers, num_hops, steps, case))
                found.append(statistics.median(seconds))
        return [(three - one) / 2 for one, three in zip(medians[1], medians[3], strict=True)]
    finally:
        for entry in running:
            entry.process.kill()


if __name__ == "__main__":
    main()
