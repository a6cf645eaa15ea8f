"""Decode speed of three workers behind the API against transformers' `generate`, in pairs.

Both run the same random llama with the same number of threads in float32, one stream. Speed is
tokens per second beyond the first token's time. `python -m tests.bench.decode [--threads 1]`
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from openai import OpenAI
from transformers import PreTrainedModel

from tests.bench.tables import ratio, show
from tests.models import build, save
from tests.swarm.processes import Brigade

SIZES = {
    "8M, 8 blocks of 256": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
    },
    "300M, 24 blocks of 1024": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
}
PROMPT = "Tell me a story about a long line of people who hand on buckets of water. " * 4


def generate_seconds(model: PreTrainedModel, prompt_tokens: int, tokens: int) -> float:
    ids = torch.randint(10, 400, (1, prompt_tokens), generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
    )
    return time.perf_counter() - started


def swarm_seconds(client: OpenAI, tokens: int) -> tuple[float, int]:
    started = time.perf_counter()
    completion = client.chat.completions.create(
        model="bench",
        messages=[{"role": "user", "content": PROMPT}],
        temperature=0,
        max_tokens=tokens,
    )
    assert completion.usage.completion_tokens == tokens, "the model stopped early: change its seed"
    return time.perf_counter() - started, completion.usage.prompt_tokens


def compare(name: str, sizes: dict[str, int], threads: int, rounds: int, tokens: int) -> list[str]:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        model = build("llama", max_position_embeddings=2048, **sizes)
        directory = save(model, home / "bench", shard="2GB")
        state_file = home / "state.json"
        swarm = Brigade(
            "up",
            f"--model={directory}",
            "--port=0",
            "--dtype=float32",
            f"--threads={threads}",
            f"--state-file={state_file}",
            home=home,
        )
        try:
            swarm.wait_for("the swarm is up", 300)
            url = json.loads(state_file.read_text())["gateway"]["url"]
            client = OpenAI(base_url=f"{url}/v1", api_key="any", timeout=600)
            _, prompt_tokens = swarm_seconds(client, tokens)
            generate_seconds(model, prompt_tokens, 8)
            ours, theirs = [], []
            for _ in range(rounds):
                first = generate_seconds(model, prompt_tokens, 1)
                theirs.append(tokens / (generate_seconds(model, prompt_tokens, tokens + 1) - first))
                first, _ = swarm_seconds(client, 1)
                ours.append(tokens / (swarm_seconds(client, tokens + 1)[0] - first))
        finally:
            swarm.stop()
    return [
        name,
        f"{statistics.median(theirs):.1f}",
        f"{statistics.median(ours):.1f}",
        ratio(ours, theirs),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    rows = [
        compare(name, sizes, options.threads, options.rounds, options.tokens)
        for name, sizes in SIZES.items()
    ]
    show(
        f"decode, one stream, float32, {options.threads} threads each, tokens/s",
        ["model", "generate", "3 workers", "ratio (range)"],
        rows,
    )


if __name__ == "__main__":
    main()
