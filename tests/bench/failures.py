"""Steps per second of a line of four workers whose stages fail at random: ours, and what others do.

The table of Petals' paper (arXiv 2209.01188, section 4): one stream, every step each stage fails
with probability p, losing all it holds; a twin takes over. Beside us: prefilling prompt and answer
again through the whole line, as a client can that keeps its tokens; and beginning the request
again, as a client must that keeps nothing. `python -m tests.bench.failures [--tokens 1024]`
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from shared import logs
from shared.wire.messages import Sampling
from tests.bench.tables import show
from tests.inprocess import InProcessSwarm, swarm
from tests.models import build, save

SPANS = ("0:2", "0:2", "2:4", "2:4", "4:6", "4:6", "6:8", "6:8")
PROMPT = tuple(range(10, 26))
RATES = (0.0, 1e-4, 1e-3, 1e-2)
METHODS = ("ours", "prefill again", "begin again")
SIZE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}


class Failures:
    """Fails stages with probability `rate` a step, the same ones for each seed."""

    def __init__(self, line: InProcessSwarm, rate: float, seed: int) -> None:
        self._line = line
        self._rate = rate
        self._random = random.Random(seed)
        self.num_failed = 0

    async def strike(self) -> bool:
        """Let a step's failures happen; whether there were any."""
        struck = [stage for stage in range(4) if self._random.random() < self._rate]
        for stage in struck:
            pair = (2 * stage, 2 * stage + 1)
            serving = [i for i in pair if len(self._line.servers[i].sessions)]
            await self._line.crash((serving or pair)[0])
        self.num_failed += len(struck)
        return bool(struck)


def begin(line: InProcessSwarm, tokens: int, made: list[int], tenant: str) -> AsyncIterator:
    return line.generator.generate(
        PROMPT,
        sampling=Sampling(temperature=0),
        max_tokens=tokens,
        stop_ids=frozenset(),
        tenant=tenant,
        made=tuple(made),
    )


async def ours(line: InProcessSwarm, failures: Failures, tokens: int, deadline: float) -> list[int]:
    made: list[int] = []
    async for token in begin(line, tokens, [], str(random.random())):
        made.append(token.token_id)
        await failures.strike()
        if time.monotonic() > deadline:
            break
    return made


async def beginning_again(
    line: InProcessSwarm,
    failures: Failures,
    tokens: int,
    deadline: float,
    *,
    keeps_tokens: bool,
) -> list[int]:
    """A failure ends the stream; the next begins with what the client kept."""
    made: list[int] = []
    while len(made) < tokens and time.monotonic() < deadline:
        made = made if keeps_tokens else []
        stream = begin(line, tokens, made, str(random.random()))
        async for token in stream:
            made.append(token.token_id)
            if await failures.strike() or time.monotonic() > deadline:
                break
        await stream.aclose()  # type: ignore[attr-defined]
    return made


async def speed(line: InProcessSwarm, method: str, rate: float, tokens: int, limit: float) -> tuple:
    failures = Failures(line, rate, seed=1)
    started = time.monotonic()
    deadline = started + limit
    if method == "ours":
        made = await ours(line, failures, tokens, deadline)
    else:
        keeps = method == "prefill again"
        made = await beginning_again(line, failures, tokens, deadline, keeps_tokens=keeps)
    return len(made) / (time.monotonic() - started), len(made) >= tokens, failures.num_failed, made


async def measure(directory: Path, tokens: int, limit: float) -> list[list[str]]:
    rows = []
    async with swarm(directory, SPANS, checkpoint_bytes=1 << 28) as line:
        _, _, _, expected = await speed(line, "ours", 0.0, tokens, limit)
        for method in METHODS:
            base = 0.0
            for rate in RATES:
                per_second, is_whole, num_failed, made = await speed(
                    line, method, rate, tokens, limit
                )
                assert made == expected[: len(made)], "another text"
                base = base or per_second
                steps = f"{per_second:.2f}" if is_whole else f"unfinished after {limit:.0f} s"
                ratio = f"{per_second / base:.2f}" if is_whole else "0.00"
                rows.append([method, f"{rate:g}", num_failed, steps, ratio])
                print(*rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--limit-seconds", type=float, default=120)
    options = parser.parse_args()
    logs.set_up("error")
    with tempfile.TemporaryDirectory() as scratch:
        model = build("llama", max_position_embeddings=4096, **SIZE)
        directory = save(model, Path(scratch) / "m", shard="1GB")
        rows = asyncio.run(measure(directory, options.tokens, options.limit_seconds))
    show(
        f"4 stages of two, {options.tokens} tokens, a failure empties a worker",
        ["after a failure", "failures per step and stage", "failures", "steps/s", "of p = 0"],
        rows,
    )


if __name__ == "__main__":
    main()
