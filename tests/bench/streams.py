"""Many streams at once through three workers: what all of them get, as a multiple of one alone.

A random llama large enough that its weights dominate; each round measures one stream and then 8
and 16 at once on the same swarm. `python -m tests.bench.streams [--dtype bfloat16]`
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from openai import AsyncOpenAI

from tests.bench.decode import SIZES
from tests.bench.tables import ratio, show
from tests.models import build, save
from tests.swarm.processes import Brigade

SIZE = "300M, 24 blocks of 1024"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    speeds: dict[int, list[float]] = {1: [], 8: [], 16: []}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        model = build("llama", max_position_embeddings=2048, **SIZES[SIZE])
        directory = save(model.to(getattr(torch, options.dtype)), home / "bench", shard="2GB")
        del model
        state_file = home / "state.json"
        swarm = Brigade(
            "up",
            f"--model={directory}",
            "--port=0",
            f"--dtype={options.dtype}",
            f"--threads={options.threads}",
            f"--state-file={state_file}",
            home=home,
        )
        try:
            swarm.wait_for("the swarm is up", 300)
            url = json.loads(state_file.read_text())["gateway"]["url"]
            asyncio.run(tokens_per_second(url, 2, 8))
            for _ in range(options.rounds):
                for num_streams, measured in speeds.items():
                    measured.append(
                        asyncio.run(tokens_per_second(url, num_streams, options.tokens))
                    )
        finally:
            swarm.stop()
    show(
        f"{SIZE}, {options.dtype}, 3 workers of {options.threads} threads, tokens/s of all streams",
        ["streams", "tokens/s", "multiple of one stream (range)"],
        [
            [num_streams, f"{statistics.median(measured):.1f}", ratio(measured, speeds[1])]
            for num_streams, measured in speeds.items()
        ],
    )


if __name__ == "__main__":
    main()
