"""What a block does to its attention scores, and attention where the fused kernel lacks that."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class How:
    """What one block does to its scores.

    It sees the `window` newest positions, or those of its query's `chunk`, or all. `sinks` and the
    `slopes` of ALiBi are [heads].
    """

    window: int | None
    chunk: int | None
    scaling: float | None
    softcap: float | None
    sinks: Tensor | None
    slopes: Tensor | None

    @property
    def is_eager(self) -> bool:
        """Whether the fused kernel lacks something of it."""
        return self.softcap is not None or self.sinks is not None


def first_seen(position: int, window: int | None, chunk: int | None) -> int:
    """The first key that a query at `position` sees."""
    first = 0
    if window:
        first = max(first, position - window + 1)
    if chunk:
        first = max(first, position // chunk * chunk)
    return first


def hidden(queries: Tensor, keys: Tensor, window: int | None, chunk: int | None) -> Tensor:
    """Which keys each query does not see, by their positions [..., count] and [..., keys]: bool
    [..., count, keys].
    """
    queries, keys = queries[..., :, None], keys[..., None, :]
    mask = keys > queries
    if window:
        mask |= keys <= queries - window
    if chunk:
        mask |= keys // chunk != queries // chunk
    return mask


def alibi(mask: Tensor, keys: Tensor, slopes: Tensor) -> Tensor:
    """The bias of ALiBi (arXiv:2108.12409), with what `mask` [..., count, keys] hides, by the keys'
    positions [..., keys]: [..., heads, count, keys].

    By the key's position, not by distance, as bloom and falcon have it: the softmax is the same.
    """
    bias = slopes[:, None, None] * keys[..., None, None, :]
    # not torch.where: with a number it waits for the device
    return bias.masked_fill(mask[..., None, :, :], -torch.inf)


def eager(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, how: How) -> Tensor:
    """Attention with capped scores (gemma2) and sinks (gpt_oss).

    `query` is [sessions, heads, count, head_dim], `keys` and `values` the same with kv_heads and
    their own count; `mask` [sessions, count, keys] is what is hidden. The query heads that share a
    kv head become rows of one query, so the cache is not copied.
    """
    sessions, heads, count, width = query.shape
    kv_heads, num_keys = keys.shape[1:3]
    rows = query.reshape(sessions, kv_heads, -1, width)
    scores = (rows @ keys.transpose(-1, -2)).unflatten(2, (-1, count))
    scores = scores * (how.scaling if how.scaling is not None else width**-0.5)
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap) * how.softcap
    scores = scores.masked_fill(mask[:, None, None], torch.finfo(scores.dtype).min)
    if how.sinks is not None:
        sinks = how.sinks.to(scores.dtype).view(1, kv_heads, -1, 1, 1)
        scores = torch.cat([scores, sinks.expand(sessions, -1, -1, count, 1)], -1)
    weights = F.softmax(scores, -1, dtype=torch.float32).to(values.dtype)[..., :num_keys]
    return (weights.flatten(2, 3) @ values).reshape(sessions, heads, count, -1)
