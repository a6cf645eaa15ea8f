"""Many streams at once through three workers: what all of them get, as a multiple of one alone.

A random llama large enough that its weights dominate; each round measures one stream and then 8
and 16 at once on the same swarm, and how many sessions shared a forward. Beside it the most that
this processor allows: linear layers alone, by rows at once. `python -m tests.bench.streams
[--dtype bfloat16]`
"""

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import torch
from torch import nn

from tests.bench.options import DTYPES, computed, options_for, stored
from tests.bench.sizes import SIZES, THIRD_BILLION, saved
from tests.bench.swarms import running
from tests.bench.tables import ratio, show
from tests.models import build
from worker.packing import PACKINGS, pack
from worker.packing_probe import best_packing

STREAMS = (1, 8, 16)


@dataclass
class Measured:
    """What so many streams came to, a value a round."""

    speeds: list[float] = field(default_factory=list[float])
    batches: list[float] = field(default_factory=list[float])


async def tokens_per_second(url: str, num_streams: int, tokens: int) -> float:
    """All streams together, from when the last has its first token to when the first is done."""
    stamps: list[list[float]] = [[] for _ in range(num_streams)]
    client = httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits())

    async def stream(index: int) -> None:
        body = {
            "model": "bench",
            "messages": [{"role": "user", "content": f"Stream number {index}, tell me a story."}],
            "temperature": 1,
            "seed": index,
            "max_tokens": tokens,
            "stream": True,
        }
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line[6:])["choices"]
                    if choices and choices[0]["delta"].get("content"):
                        stamps[index].append(time.perf_counter())

    await asyncio.gather(*(stream(index) for index in range(num_streams)))
    await client.aclose()
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


@torch.inference_mode()
def ceiling(size: str, dtype: str, threads: int) -> dict[int, float]:
    """How many times the rows of one a second the linear layers of four blocks do, by rows."""
    torch.set_num_threads(threads or torch.get_num_threads())
    model = build("llama", **SIZES[size] | {"num_hidden_layers": 4})
    model.to(getattr(torch, stored(dtype))).to(getattr(torch, computed(dtype)))
    if packing := best_packing(model, model.dtype):
        pack(model, packing, model.dtype)
    blocks = model.model.layers.modules()
    layers = [module for module in blocks if isinstance(module, (nn.Linear, *PACKINGS))]
    seconds: dict[int, float] = {}
    for rows in STREAMS:
        inputs = [torch.randn(rows, layer.in_features).to(model.dtype) for layer in layers]
        seconds[rows] = min(_seconds(layers, inputs) for _ in range(20))
    return {rows: rows * seconds[1] / took for rows, took in seconds.items()}


def _seconds(layers: Sequence[nn.Module], inputs: Sequence[torch.Tensor]) -> float:
    started = time.perf_counter()
    for layer, rows in zip(layers, inputs, strict=True):
        layer(rows)
    return time.perf_counter() - started


def measure(size: str, dtype: str, options: argparse.Namespace) -> dict[int, Measured]:
    """Rounds of each number of streams on one swarm."""
    measured = {num_streams: Measured() for num_streams in STREAMS}
    with tempfile.TemporaryDirectory() as scratch:
        directory = saved(size, stored(dtype), Path(scratch))
        with running(directory, computed(dtype), options.threads) as state:
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
        alone, most = measured[1].speeds, ceiling(options.size, dtype, options.threads)
        rows.extend(
            [
                *(dtype, num_streams, f"{statistics.median(found.speeds):.1f}"),
                *(ratio(found.speeds, alone), f"{most[num_streams]:.2f}"),
                f"{statistics.median(found.batches):.1f}",
            ]
            for num_streams, found in measured.items()
        )
    show(
        f"{options.size}, 3 workers of {options.threads} threads, tokens/s of all streams",
        [
            *("dtype", "streams", "tokens/s", "times one stream (range)", "its layers alone"),
            "sessions a forward",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
