"""What a hop costs without compute: steps through workers whose blocks do nothing.

Three worker processes with the real server, sessions, engine thread and links, and a model that
returns zeros at once; decode steps of 4,096 bfloat16 values, one stream. A step of N hops takes
N+1 trips, so the cost of a hop is the difference between routes of three hops and of one, by
two. `python -m tests.bench.hop`
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from array import array
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

from shared import logs
from tests.bench.tables import show

HIDDEN_SIZE = 4096
NUM_BLOCKS = 3
SWARM = "bench"


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


def worker(pipe: Connection) -> None:
    """A worker process: sends its signed announcement, then serves until killed."""
    logs.set_up("warning")
    from websockets.asyncio.server import serve

    from shared.identity import Identity
    from shared.records import sign_announcement
    from shared.swarm import Announcement, Span
    from shared.wire.link import SOCKET_OPTIONS
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
        async with serve(server.pool.accept, "127.0.0.1", 0, **SOCKET_OPTIONS) as listener:
            port = next(iter(listener.sockets)).getsockname()[1]
            announcement = Announcement(
                worker=identity.peer,
                swarm=SWARM,
                model="idle",
                revision="r",
                span=span,
                num_blocks=NUM_BLOCKS,
                url=f"ws://127.0.0.1:{port}",
                dtype="bfloat16",
                sequence=1,
                issued_at=time.time(),
                lease_seconds=60,
            )
            pipe.send(
                (announcement.worker, announcement.url, sign_announcement(identity, announcement))
            )
            await asyncio.Event().wait()

    asyncio.run(main())


async def trips(workers: list[tuple[Any, str, bytes]], num_hops: int, steps: int) -> list[float]:
    """Seconds from sending a decode step to its token, for each of `steps`."""
    from shared.identity import Identity
    from shared.swarm import Hop, Span
    from shared.wire.link import LinkPool
    from shared.wire.messages import Introduce, Step, Tokens

    arrived: asyncio.Queue[Tokens] = asyncio.Queue()

    def on_frame(link: Any, frame: Any) -> None:
        if isinstance(frame.message, Tokens):
            arrived.put_nowait(frame.message)

    identity = Identity.create()
    pool = LinkPool(identity, SWARM, on_frame=on_frame)
    edges = [0, *range(NUM_BLOCKS - num_hops + 1, NUM_BLOCKS + 1)]
    hops = tuple(
        Hop(peer, Span(start, end))
        for (peer, _, _), start, end in zip(workers, edges, edges[1:], strict=False)
    )
    for peer, url, _ in workers:
        link = await pool.connect(peer, url)
        link.post(Introduce(tuple(record for _, _, record in workers)))
    first = await pool.connect(workers[0][0], workers[0][1])
    payload = array("i", [1]).tobytes()
    session, seconds = os.urandom(16), []
    for position in range(steps):
        started = time.perf_counter()
        first.post(
            Step(session, 1, identity.peer, position, 1, hops, "int32", (position,)), payload
        )
        await arrived.get()
        seconds.append(time.perf_counter() - started)
    await pool.close()
    return seconds[steps // 10 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logs.set_up("warning")
    context = multiprocessing.get_context("spawn")
    running = [SimpleNamespace(pipes=context.Pipe()) for _ in range(3)]
    for entry in running:
        entry.process = context.Process(target=worker, args=(entry.pipes[1],), daemon=True)
        entry.process.start()
    workers = [entry.pipes[0].recv() for entry in running]
    rounds: dict[int, list[float]] = {1: [], 3: []}
    for _ in range(options.rounds):
        for num_hops, medians in rounds.items():
            seconds = asyncio.run(trips(workers, num_hops, options.steps))
            medians.append(statistics.median(seconds))
    hops = [(three - one) / 2 for one, three in zip(rounds[1], rounds[3], strict=True)]
    show(
        f"a decode step without compute, {HIDDEN_SIZE} bfloat16 values, milliseconds",
        ["", "median", "best", "worst"],
        [
            [name, *(f"{1000 * f(values):.2f}" for f in (statistics.median, min, max))]
            for name, values in (
                ("there and back, 1 hop", rounds[1]),
                ("there and back, 3 hops", rounds[3]),
                ("one more hop", hops),
            )
        ],
    )
    for entry in running:
        entry.process.kill()


if __name__ == "__main__":
    main()
