"""Attention over many sessions in one flattened forward, behind transformers' attention interface.

Sessions on slabs attend one by one, sessions on pages together (paged_attention.py).

A batch is [1, total_tokens, hidden_size]; which tokens belong to which session is handed over in
a thread-local, as keyword arguments do not reach attention in every family. Registered without a
mask function, so transformers builds no masks: causality, windows and chunks are applied here.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from worker.kv_cache import Segment, Slab
from worker.page_table import PageTable
from worker.paged_attention import PagedBatch
from worker.scores import How, alibi, eager, first_seen, hidden

NAME = "brigade"

_batch = threading.local()


class CachesFilled(Exception):
    """All that a forward was to leave in the caches is there."""


class SlabBatch:
    """The sessions of one forward, in order, each with a slab: what PagedBatch is for pages."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        ends = list(accumulate(segment.count for segment in segments))
        self._parts = list(zip(segments, [0, *ends], ends, strict=False))

    def write(self, block: int, key: Tensor, value: Tensor) -> None:
        """Keep a block's new keys and values: [1, kv_heads, total_tokens, head_dim]."""
        for segment, start, end in self._parts:
            slab: Any = segment.cache
            slab.write(block, segment.position, key[0, :, start:end], value[0, :, start:end])

    def attend(self, block: int, query: Tensor, how: How) -> Tensor:
        """Attend each session's queries to its own keys and values, the new ones included.

        `query` is [1, heads, total_tokens, head_dim]; returns [1, total_tokens, heads, head_dim].
        """
        outputs = [_attend(query[:, :, a:b], segment, block, how) for segment, a, b in self._parts]
        joined = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]
        return joined.transpose(1, 2).contiguous()


@contextmanager
def batch_of(segments: list[Segment], *, fill_to: int | None = None) -> Iterator[None]:
    """Run the forward inside over these sessions' tokens, in this order.

    It ends by CachesFilled when block `fill_to` has written its keys and values.
    """
    cache = segments[0].cache
    is_paged = isinstance(cache, PageTable)
    _batch.now = PagedBatch(segments, cache.pool) if is_paged else SlabBatch(segments)
    _batch.fill_to = fill_to
    try:
        yield
    finally:
        del _batch.now, _batch.fill_to


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    slopes: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend each session's queries to its own cache, writing its new keys and values first.

    `query` is [1, heads, total_tokens, head_dim], `key` and `value` the same with kv_heads;
    returns [1, total_tokens, heads, head_dim]. `s_aux` are attention sinks [heads], `slopes`
    those of ALiBi.
    """
    block: int = module.layer_idx  # type: ignore[assignment]
    window, chunk = reach_of(module, sliding_window)
    how = How(window, chunk, scaling, softcap, s_aux, slopes)
    batch: PagedBatch | SlabBatch = _batch.now
    batch.write(block, key, value)
    if block == _batch.fill_to:
        raise CachesFilled
    return batch.attend(block, query, how), None


def reach_of(module: nn.Module, sliding_window: int | None) -> tuple[int | None, int | None]:
    """(window, chunk) of a block: how far back it sees. `config.layer_types` decides if present."""
    config: Any = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return sliding_window or getattr(config, "sliding_window", None), None
    kind: str = kinds[module.layer_idx]  # type: ignore[index]
    if "sliding" in kind:
        return config.sliding_window, None
    if kind == "chunked_attention":
        return None, config.attention_chunk_size
    return None, None


def _attend(query: Tensor, segment: Segment, block: int, how: How) -> Tensor:
    """One session's attention: `query` [1, heads, count, head_dim] in, the same shape out."""
    assert isinstance(segment.cache, Slab)
    first = first_seen(segment.position, how.window, how.chunk)
    keys = segment.cache.keys[block][None, :, first : segment.end]
    values = segment.cache.values[block][None, :, first : segment.end]
    heads, kv_heads = query.shape[1], keys.shape[1]
    plain = not how.is_eager and how.slopes is None
    if segment.count == 1 and plain:
        # The query heads that share a kv head become rows of one query: no copy of the cache.
        rows = query.reshape(1, kv_heads, heads // kv_heads, -1)
        out = F.scaled_dot_product_attention(rows, keys, values, scale=how.scaling)
        return out.reshape(1, heads, 1, -1)
    masked = (how.window is not None and segment.end > how.window) or how.chunk is not None
    if segment.position == 0 and plain and not masked:
        return F.scaled_dot_product_attention(
            query, keys, values, is_causal=True, scale=how.scaling, enable_gqa=heads != kv_heads
        )
    queries = torch.arange(segment.position, segment.end, device=query.device)
    positions = torch.arange(first, segment.end, device=query.device)
    mask = hidden(queries, positions, how.window, how.chunk)
    if how.is_eager:
        return eager(query, keys, values, mask[None], how)
    slopes = how.slopes
    mask = ~mask if slopes is None else alibi(mask, positions, slopes).to(query.dtype)
    return F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=how.scaling, enable_gqa=heads != kv_heads
    )


AttentionInterface.register(NAME, attention)
