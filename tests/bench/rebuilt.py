"""How often a span that was rebuilt in the middle of an answer changes the answer's tokens.

The bundled model in three spans; after some tokens the middle one's cache is computed anew from
the inputs it had, in one prefill, as on a worker that takes its place. Greedy and drawn answers,
each compared with the undisturbed one. `python -m tests.bench.rebuilt [--dtype bfloat16]`
"""

import argparse
import random

import torch
from torch import Tensor

from shared.model_files import BUNDLED
from shared.swarm import Span
from shared.wire.messages import Sampling
from tests.bench.tables import show
from worker.kv_cache import Segment, Slab
from worker.sampling import sample
from worker.span_model import SpanModel
from worker.weights import load_span

PROMPT_TOKENS = 24
CAPACITY = 256

DTYPES = ("float32", "bfloat16")


class Stream:
    """One answer, span by span, with what the middle span was given."""

    def __init__(self, model: SpanModel, prompt: list[int], sampling: Sampling) -> None:
        third = model.num_blocks // 3
        self._spans = [Span(0, third), Span(third, 2 * third), Span(2 * third, model.num_blocks)]
        self._caches = [Slab(CAPACITY) for _ in self._spans]
        self._model, self._sampling = model, sampling
        self._middle: list[Tensor] = []
        self._position = 0
        self._row = torch.tensor(prompt, dtype=torch.int32)
        self.tokens: list[int] = []

    def step(self) -> None:
        """Add a token."""
        row, count = self._row, len(self._row)
        for index, (span, cache) in enumerate(zip(self._spans, self._caches, strict=True)):
            if index == 1:
                self._middle.append(row)
            row = self._run(row, span, cache, self._position, [count - 1] if index == 2 else [])
        self._position += count
        self.tokens += sample(row, [self._sampling], [self._position])
        self._row = torch.tensor(self.tokens[-1:], dtype=torch.int32)

    def rebuild(self) -> None:
        """Compute the middle span's cache anew."""
        self._caches[1] = Slab(CAPACITY)
        self._run(torch.cat(self._middle), self._spans[1], self._caches[1], 0, [])

    def _run(
        self, inputs: Tensor, span: Span, cache: Slab, position: int, keep: list[int]
    ) -> Tensor:
        segment = Segment(cache, position, len(inputs))
        out = self._model.run(inputs, [segment], span, keep)
        cache.length = segment.end
        return out


def answer(
    model: SpanModel, prompt: list[int], sampling: Sampling, tokens: int, rebuilt_at: int
) -> list[int]:
    stream = Stream(model, prompt, sampling)
    for number in range(tokens):
        if number == rebuilt_at:
            stream.rebuild()
        stream.step()
    return stream.tokens


def changed(model: SpanModel, temperature: float, streams: int, tokens: int) -> tuple[int, int]:
    """Of so many answers how many changed, and how many tokens came between at the least."""
    chance = random.Random(0)
    count, soonest = 0, tokens
    for number in range(streams):
        prompt = [chance.randrange(10, model.vocab_size) for _ in range(PROMPT_TOKENS)]
        sampling = Sampling(temperature=temperature, seed=number)
        at = chance.randrange(1, tokens // 2)
        before = answer(model, prompt, sampling, tokens, tokens)
        after = answer(model, prompt, sampling, tokens, at)
        if before != after:
            count += 1
            first = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
            soonest = min(soonest, first - at)
    return count, soonest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for dtype in options.dtype or DTYPES:
        model = load_span(BUNDLED, Span(0, 8), dtype=getattr(torch, dtype))
        for temperature in (0.0, 1.0):
            count, soonest = changed(model, temperature, options.streams, options.tokens)
            rows.append([dtype, temperature, count, soonest if count else "-"])
    show(
        f"{options.streams} answers of {options.tokens} tokens, one span rebuilt in each",
        ["dtype", "temperature", "changed", "soonest after so many tokens"],
        rows,
    )


if __name__ == "__main__":
    main()
