"""Where a decode step's time goes, and how far it is from reading the weights at full speed.

A span of blocks in this process, in turns: the whole forward, its linear layers alone, its
attention alone; what is left is Python, dispatch and small operators. Beside it how fast this
machine reads memory, measured in the same turns. `python -m tests.bench.overhead [--threads 1]`
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.swarm import Span
from tests.bench.options import DTYPES, computed, options_for, stored
from tests.bench.sizes import SIZES, THIRD_BILLION, saved
from tests.bench.tables import show
from worker.attention import attention, batch_of
from worker.kv_cache import Segment, Slab
from worker.packing import PACKINGS
from worker.quantization import weight_bytes
from worker.span_model import SpanModel
from worker.weights import load_span

ROWS = (1, 8, 16)
READ_BYTES = 256 << 20


class Step:
    """One decode step of so many sessions through a middle span, as a whole and in parts."""

    def __init__(self, model: SpanModel, rows: int, context: int) -> None:
        self._model = model
        self.num_blocks = model.span.end - model.span.start
        modules: list[Any] = list(model._model.modules())
        self._linears = [m for m in modules if isinstance(m, (nn.Linear, *PACKINGS))]
        self._attentions = [m for m in modules if hasattr(m, "num_key_value_groups")]
        self.weight_bytes = weight_bytes(nn.ModuleList(self._linears))
        self._hidden = self._ones(rows, model.hidden_size)
        self._inputs = {n: self._ones(1, rows, n) for n in {m.in_features for m in self._linears}}
        config = model.config
        self._query = self._ones(1, config.num_attention_heads, rows, config.head_dim)
        self._key = self._ones(1, config.num_key_value_heads, rows, config.head_dim)
        slabs = [Slab(context + 1) for _ in range(rows)]
        for slab in slabs:
            prompt = self._ones(context, model.hidden_size)
            model.run(prompt, [Segment(slab, 0, context)], model.span, [])
        self._segments = [Segment(slab, context, 1) for slab in slabs]

    def whole(self) -> None:
        """The span's forward."""
        self._model.run(self._hidden, self._segments, self._model.span, [])

    def linear(self) -> None:
        """Only what reads weights."""
        for module in self._linears:
            module(self._inputs[module.in_features])

    def attention(self) -> None:
        """Only what reads the caches, and writes to them."""
        with batch_of(self._segments):
            for module in self._attentions:
                attention(module, self._query, self._key, self._key, None, module.scaling)

    def _ones(self, *shape: int) -> Tensor:
        return torch.ones(shape, dtype=self._model.dtype)


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@torch.inference_mode()
def profile(model: SpanModel, rows: int, context: int, rounds: int) -> tuple[Step, list[float]]:
    """Seconds of the whole, its linear layers, its attention: lower quartiles, as whatever else
    runs here only adds to them; and of reading READ_BYTES at best."""
    step = Step(model, rows, context)
    memory = torch.zeros(READ_BYTES // 4)
    runs = (step.whole, step.linear, step.attention, memory.sum)
    for run in runs:
        run()
    measured = [[seconds(run) for run in runs] for _ in range(rounds)]
    whole, linear, attending, read = zip(*measured, strict=True)
    quartiles = [sorted(part)[rounds // 4] for part in (whole, linear, attending)]
    return step, [*quartiles, min(read)]


def row_of(dtype: str, rows: int, step: Step, times: list[float]) -> list[str]:
    """A line of the table."""
    whole, linear, attending, read = times
    rest = whole - linear - attending
    full = READ_BYTES / read
    return [
        *(dtype, str(rows)),
        *(f"{1e6 * part / step.num_blocks:.0f}" for part in (whole, linear, attending, rest)),
        f"{step.weight_bytes / linear / 1e9:.1f}",
        f"{full / 1e9:.1f}",
        f"{100 * step.weight_bytes / full / linear:.0f} %",
        f"{100 * step.weight_bytes / full / whole:.0f} %",
    ]


def main() -> None:
    parser = options_for(__doc__, size=THIRD_BILLION)
    parser.add_argument("--context", type=int, default=64, help="tokens each session has cached")
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    third = SIZES[options.size]["num_hidden_layers"] // 3
    lines: list[list[str]] = []
    for dtype in options.dtype or DTYPES:
        with tempfile.TemporaryDirectory() as scratch:
            directory = saved(options.size, stored(dtype), Path(scratch))
            span = Span(third, 2 * third)
            model = load_span(
                directory, span, dtype=getattr(torch, computed(dtype)), device=torch.device("cpu")
            )
        name = dtype if model.packing else f"{dtype}, plain"
        for rows in ROWS:
            found = profile(model, rows, options.context, options.rounds)
            lines.append(row_of(name, rows, *found))
    show(
        f"a decode step of {options.size}, {options.threads} threads: microseconds a block, and the"
        " share of the speed of memory (GB/s) at which weights are read",
        [
            *("dtype", "sessions", "whole", "linear", "attention", "rest"),
            *("GB/s", "memory", "linear", "whole"),
        ],
        lines,
    )


if __name__ == "__main__":
    main()
