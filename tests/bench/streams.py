"""Many streams at once through three workers: what all of them get, as a multiple of one alone.

A random llama large enough that its weights dominate; each round measures one stream and then 8
and 16 at once on the same swarm, and how many sessions shared a forward. `python -m
tests.bench.streams [--dtype bfloat16]`
"""

import argparse
import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from openai import AsyncOpenAI

from tests.bench.options import DTYPES, options_for
from tests.bench.sizes import THIRD_BILLION, saved
from tests.bench.swarms import running
from tests.bench.tables import ratio, show

STREAMS = (1, 8, 16)


@dataclass
class Measured:
    """What so many streams came to, a value a round."""

    speeds: list[float] = field(default_factory=list[float])
    batches: list[float] = field(default_factory=list[float])


async def tokens_per_second(url: str, num_streams: int, tokens: int) -> float:
    """All streams together, from when the last has its first token to when the first is done."""
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="any", timeout=600)
    stamps: list[list[float]] = [[] for _ in range(num_streams)]

    async def stream(index: int) -> None:
        chunks = await client.chat.completions.create(
            model="bench",
            messages=[{"role": "user", "content": f"Stream number {index}, tell me a story."}],
            temperature=1,
            seed=index,
            max_tokens=tokens,
            stream=True,
        )
        async for chunk in chunks:
            if chunk.choices and chunk.choices[0].delta.content:
                stamps[index].append(time.perf_counter())

    await asyncio.gather(*(stream(index) for index in range(num_streams)))
    await client.close()
    start = max(times[0] for times in stamps)
    end = min(times[-1] for times in stamps)
    made = sum(sum(start < t <= end for t in times) for times in stamps)
    return made / (end - start)


def forwards(worker_urls: Sequence[str]) -> tuple[float, float]:
    """(sessions in all forwards, forwards) of all workers since they started."""
    totals = [0.0, 0.0]
    for url in worker_urls:
        text = httpx.get(url.replace("ws", "http", 1) + "/metrics").text
        for i, name in enumerate(("sum", "count")):
            found = re.search(rf"^brigade_worker_batch_sessions_{name} (\S+)", text, re.MULTILINE)
            totals[i] += float(found[1]) if found else 0.0
    return totals[0], totals[1]


def measure(size: str, dtype: str, options: argparse.Namespace) -> dict[int, Measured]:
    """Rounds of each number of streams on one swarm."""
    measured = {num_streams: Measured() for num_streams in STREAMS}
    with tempfile.TemporaryDirectory() as scratch:
        directory = saved(size, dtype, Path(scratch))
        with running(directory, dtype, options.threads) as state:
            url = state["gateway"]["url"]
            workers = [worker["url"] for worker in state["workers"]]
            asyncio.run(tokens_per_second(url, 2, 8))
            for _ in range(options.rounds):
                for num_streams, found in measured.items():
                    sessions, count = forwards(workers)
                    speed = asyncio.run(tokens_per_second(url, num_streams, options.tokens))
                    found.speeds.append(speed)
                    more_sessions, more = forwards(workers)
                    found.batches.append((more_sessions - sessions) / (more - count))
    return measured


def main() -> None:
    parser = options_for(__doc__, size=THIRD_BILLION)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    rows: list[list[object]] = []
    for dtype in options.dtype or DTYPES:
        measured = measure(options.size, dtype, options)
        alone = measured[1].speeds
        rows.extend(
            [
                *(dtype, num_streams, f"{statistics.median(found.speeds):.1f}"),
                *(ratio(found.speeds, alone), f"{statistics.median(found.batches):.1f}"),
            ]
            for num_streams, found in measured.items()
        )
    show(
        f"{options.size}, 3 workers of {options.threads} threads, tokens/s of all streams",
        ["dtype", "streams", "tokens/s", "times one stream (range)", "sessions a forward"],
        rows,
    )


if __name__ == "__main__":
    main()
