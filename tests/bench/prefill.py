"""Prefill of a long prompt against transformers' own: in one piece, and in those a worker makes.

One span with the whole model in this process, behind a worker's engine, in turns with
transformers' forward on the same random llama and threads, which gives the last token's logits
and the cache, too. `python -m tests.bench.prefill [--tokens 2048]`
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tests.bench.options import DTYPES, computed, options_for, stored
from tests.bench.sizes import THIRD_BILLION, saved
from tests.bench.tables import ratio, show
from tests.bench.whole import Whole
from worker.settings import WorkerSettings

PIECE: int = WorkerSettings.model_fields["max_step_tokens"].default


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(size: str, dtype: str, rounds: int, tokens: int) -> list[list[str]]:
    """The table's rows for a model."""
    ids = torch.randint(10, 400, (1, tokens), generator=torch.Generator().manual_seed(0))
    prompt = ids[0].tolist()
    with tempfile.TemporaryDirectory() as scratch:
        directory = saved(size, stored(dtype), Path(scratch))
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=computed(dtype))
        whole = Whole(directory, computed(dtype), max_tokens=tokens)
        ways: dict[str, Callable[[], object]] = {
            "transformers": lambda: model(ids, use_cache=True, logits_to_keep=1),
            "one piece": lambda: whole.generate(prompt, 1),
            f"pieces of {PIECE}": lambda: whole.generate(prompt, 1, piece=PIECE),
        }
        measured: dict[str, list[float]] = {way: [] for way in ways}
        with torch.inference_mode():
            model(ids[:, :64])
            whole.generate(prompt[:64], 1)
            for _ in range(rounds):
                for way, run in ways.items():
                    measured[way].append(seconds(run))
        whole.stop()
    theirs, one_piece, _ = measured.values()
    return [
        [
            *(size, dtype, way, f"{tokens / statistics.median(ours):.0f}"),
            *(ratio(theirs, ours), ratio(one_piece, ours)),
        ]
        for way, ours in measured.items()
    ]


def main() -> None:
    parser = options_for(__doc__, size=THIRD_BILLION)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2048)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    show(
        f"prefill of {options.tokens} tokens, {options.threads} threads, speeds as medians",
        ["model", "dtype", "by", "tokens/s", "times transformers", "times one piece"],
        [
            row
            for dtype in options.dtype or DTYPES
            for row in compare(options.size, dtype, options.rounds, options.tokens)
        ],
    )


if __name__ == "__main__":
    main()
