"""Decode speed against transformers' `generate`: one span with the whole model, and 3 workers.

All run the same random llama with the same number of threads, one stream, in turns. The whole
span runs in this process behind a worker's engine, the three workers behind the API. Speed is
tokens per second beyond the first token's time. `python -m tests.bench.decode [--threads 1]`
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM

from tests.bench.options import DTYPES, computed, options_for, stored
from tests.bench.sizes import HALF_BILLION, saved
from tests.bench.swarms import running
from tests.bench.tables import ratio, show
from tests.bench.whole import Whole

PROMPT = "Tell me a story about a long line of people who hand on buckets of water. " * 4
PROMPT_TOKENS = 96
"""About what the chat template makes of PROMPT."""

Generate = Callable[[int], object]
"""Makes so many tokens from the prompt."""


def by_transformers(model: Any, ids: torch.Tensor) -> Generate:
    """`generate`, greedy."""
    return lambda tokens: model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
    )


def by_swarm(url: str) -> Generate:
    """The API of a swarm."""
    client = OpenAI(base_url=f"{url}/v1", api_key="any", timeout=600)

    def generate(tokens: int) -> None:
        completion = client.chat.completions.create(
            model="bench",
            messages=[{"role": "user", "content": PROMPT}],
            temperature=0,
            max_tokens=tokens,
        )
        made = completion.usage.completion_tokens if completion.usage else 0
        assert made == tokens, "the model stopped early: change its seed"

    return generate


def tokens_per_second(generate: Generate, tokens: int) -> float:
    """Of the tokens after the first."""
    started = time.perf_counter()
    generate(1)
    first = time.perf_counter()
    generate(tokens + 1)
    return tokens / (time.perf_counter() - first - (first - started))


def compare(size: str, dtype: str, options: argparse.Namespace) -> list[list[str]]:
    """The table's rows for a model."""
    ids = torch.randint(10, 400, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as scratch:
        directory = saved(size, stored(dtype), Path(scratch))
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=computed(dtype))
        whole = Whole(directory, computed(dtype), max_tokens=PROMPT_TOKENS + options.tokens + 1)
        try:
            with running(directory, computed(dtype), options.threads) as state:
                ways: dict[str, Generate] = {
                    "generate": by_transformers(model, ids),
                    "one span": lambda tokens: whole.generate(ids[0].tolist(), tokens),
                    "3 workers": by_swarm(state["gateway"]["url"]),
                }
                speeds = measure(ways, options.rounds, options.tokens)
        finally:
            whole.stop()
    theirs = speeds["generate"]
    return [
        [size, dtype, way, f"{statistics.median(ours):.1f}", ratio(ours, theirs)]
        for way, ours in speeds.items()
    ]


def measure(ways: dict[str, Generate], rounds: int, tokens: int) -> dict[str, list[float]]:
    """Tokens per second of each way, in turns, after a first run of each that does not count."""
    for generate in ways.values():
        generate(4)
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, generate in ways.items():
            speeds[way].append(tokens_per_second(generate, tokens))
    return speeds


def main() -> None:
    parser = options_for(__doc__, size=HALF_BILLION)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for d in options.dtype or DTYPES for row in compare(options.size, d, options)]
    show(
        f"decode, one stream, {options.threads} threads each, median of {options.rounds}",
        ["model", "dtype", "by", "tokens/s", "times generate (range)"],
        rows,
    )


if __name__ == "__main__":
    main()
