"""Measures how long a block takes on this machine, by running zeros through the loaded span."""

import time

import torch
from torch import Tensor

from shared.errors import ModelError
from shared.pace import BATCHES, Pace
from shared.swarm import SessionId
from worker.kv_cache import KvCache
from worker.page_pool import PAGE_TOKENS
from worker.parts import PartKey
from worker.span_model import SpanModel

CONTEXT_TOKENS = PAGE_TOKENS // 2
"""What each session has read before its decode steps; these then stay within a page."""
PREFILL_TOKENS = 8 * PAGE_TOKENS
REPEATS = 3
PATIENCE_SECONDS = 0.5
"""A forward that takes longer is not repeated."""


def measure_pace(model: SpanModel, cache: KvCache, pages: int) -> Pace:
    """The pace of a span whose cache has so many pages, all of them free again afterwards.

    Batches for which there are too few pages are taken to run one after the other. Raises
    ModelError when the span computes something that is no number.
    """
    num_blocks = len(model.span)
    most = pages if model.batches else 1
    decode = [
        _decode_seconds(model, cache, min(batch, most)) / num_blocks * max(1.0, batch / most)
        for batch in BATCHES
    ]
    tokens = min(PREFILL_TOKENS, pages * PAGE_TOKENS, model.max_positions)
    prefill = _prefill_seconds(model, cache, tokens) / num_blocks / tokens
    return Pace((decode[0], decode[1], decode[2]), prefill)


def _decode_seconds(model: SpanModel, cache: KvCache, num_sessions: int) -> float:
    """The least time one step of so many sessions took."""
    keys = [_key(model, number) for number in range(num_sessions)]
    try:
        _forward(model, cache, keys, 0, CONTEXT_TOKENS)
        best = float("inf")
        for repeat in range(REPEATS):
            seconds = _forward(model, cache, keys, CONTEXT_TOKENS + repeat, 1)
            best = min(best, seconds)
            if seconds > PATIENCE_SECONDS:
                break
        return best
    finally:
        for key in keys:
            cache.free(key)


def _prefill_seconds(model: SpanModel, cache: KvCache, tokens: int) -> float:
    """The time so many tokens of one prompt took."""
    key = _key(model, 0)
    try:
        return _forward(model, cache, [key], 0, tokens)
    finally:
        cache.free(key)


def _forward(
    model: SpanModel, cache: KvCache, keys: list[PartKey], position: int, count: int
) -> float:
    """Seconds for `count` tokens of every session, with logits for the last of each."""
    pages = -(-(position + count) // PAGE_TOKENS)
    started = time.perf_counter()
    segments = [cache.segment(key, position, count, pages) for key in keys]
    ends = model.span.end == model.num_blocks
    keep = [count * number + count - 1 for number in range(len(keys))] if ends else []
    out = model.run(_zeros(model, count * len(keys)), segments, model.span, keep)
    # the numbers are there only now: CUDA computes behind our back
    if not bool(out.isfinite().all()):  # a weight that is no number spoils even zeros
        raise ModelError(
            f"blocks {model.span} give numbers that are not finite: their weights are damaged, or "
            f"{model.dtype} is too small for them; fetch the model again, or choose another --dtype"
        )
    for segment in segments:
        segment.cache.length = segment.end
    return time.perf_counter() - started


def _zeros(model: SpanModel, tokens: int) -> Tensor:
    if model.span.start == 0:
        return torch.zeros(tokens, dtype=torch.int32)
    return torch.zeros(tokens, model.hidden_size, dtype=model.dtype)


def _key(model: SpanModel, number: int) -> PartKey:
    return SessionId(number.to_bytes(16, "little")), model.span
