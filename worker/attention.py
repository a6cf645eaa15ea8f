"""Attention over many sessions in one flattened forward, behind transformers' attention interface.

A batch is [1, total_tokens, hidden_size]; which tokens belong to which session is handed over in
a thread-local, as keyword arguments do not reach attention in every family. Registered without a
mask function, so transformers builds no masks: causality, windows and chunks are applied here.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from worker.kv_cache import Segment

NAME = "brigade"

_batch = threading.local()


@contextmanager
def batch_of(segments: list[Segment]) -> Iterator[None]:
    """Run the forwards inside over these sessions' tokens, in this order."""
    _batch.segments = segments
    try:
        yield
    finally:
        del _batch.segments


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
    how = _How(window, chunk, scaling, softcap, s_aux, slopes)
    outputs: list[Tensor] = []
    start = 0
    for segment in _batch.segments:
        end = start + segment.count
        segment.slab.write(block, segment.position, key[0, :, start:end], value[0, :, start:end])
        outputs.append(_attend(query[:, :, start:end], segment, block, how))
        start = end
    joined = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]
    return joined.transpose(1, 2).contiguous(), None


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


@dataclass(frozen=True)
class _How:
    """What one block does to its scores."""

    window: int | None
    chunk: int | None
    scaling: float | None
    softcap: float | None
    sinks: Tensor | None
    slopes: Tensor | None


def _attend(query: Tensor, segment: Segment, block: int, how: _How) -> Tensor:
    """One session's attention: `query` [1, heads, count, head_dim] in, the same shape out."""
    first = 0
    if how.window:
        first = max(first, segment.position - how.window + 1)
    if how.chunk:
        first = max(first, segment.position // how.chunk * how.chunk)
    keys = segment.slab.keys[block][None, :, first : segment.end]
    values = segment.slab.values[block][None, :, first : segment.end]
    heads, kv_heads = query.shape[1], keys.shape[1]
    plain = how.softcap is None and how.sinks is None
    if segment.count == 1 and plain and how.slopes is None:
        # The query heads that share a kv head become rows of one query: no copy of the cache.
        rows = query.reshape(1, kv_heads, heads // kv_heads, -1)
        out = F.scaled_dot_product_attention(rows, keys, values, scale=how.scaling)
        return out.reshape(1, heads, 1, -1)
    masked = (how.window is not None and segment.end > how.window) or how.chunk is not None
    if segment.position == 0 and plain and how.slopes is None and not masked:
        return F.scaled_dot_product_attention(
            query, keys, values, is_causal=True, scale=how.scaling, enable_gqa=heads != kv_heads
        )
    mask = _mask(segment, first, how, query.device)
    if not plain:
        return _eager(query, keys, values, mask, how)
    if how.slopes is not None:
        mask = _bias(mask, first, how.slopes).to(query.dtype)
    return F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=how.scaling, enable_gqa=heads != kv_heads
    )


def _mask(segment: Segment, first: int, how: _How, device: torch.device) -> Tensor:
    """Which of the keys from position `first` on each query may see: bool [count, keys]."""
    queries = torch.arange(segment.position, segment.end, device=device)[:, None]
    keys = torch.arange(first, segment.end, device=device)[None]
    mask = keys <= queries
    if how.window:
        mask &= keys > queries - how.window
    if how.chunk:
        mask &= keys // how.chunk == queries // how.chunk
    return mask


def _bias(mask: Tensor, first: int, slopes: Tensor) -> Tensor:
    """ALiBi (arXiv:2108.12409) under a mask: [heads, count, keys].

    By the key's position, not by distance, as bloom and falcon have it: the softmax is the same.
    """
    keys = torch.arange(first, first + mask.shape[1], device=mask.device)
    return torch.where(mask, slopes[:, None, None] * keys, -torch.inf)


def _eager(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, how: _How) -> Tensor:
    """Attention for what the fused kernel lacks: capped scores (gemma2) and sinks (gpt_oss)."""
    groups = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scores = query @ keys.transpose(-1, -2)
    scores = scores * (how.scaling if how.scaling is not None else query.shape[-1] ** -0.5)
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap) * how.softcap
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if how.sinks is not None:
        column = how.sinks.reshape(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], -1)
    weights = F.softmax(scores, -1, dtype=torch.float32).to(values.dtype)
    return weights[..., : keys.shape[2]] @ values


AttentionInterface.register(NAME, attention)
