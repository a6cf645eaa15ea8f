"""Attention over the pages of many sessions: for each block a few kernels, however many there are.

What is the same for every block of a forward (which pages, which masks) is made once, from one
copy to the device; nothing waits for the device.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.kv_cache import Segment
from worker.page_pool import PAGE_TOKENS, PagePool
from worker.page_table import PageTable
from worker.paged_view import Pages, View
from worker.scores import How, eager
from worker.tensors import to_device

SHORT_TOKENS = 16
"""Steps of up to so many tokens, decodes and guesses, are padded to one length to share kernels."""
ALIKE_PAGES = 64
"""Caches of up to so many pages are read together however they differ; longer ones within a factor
of two, so that at most half of what is read is padding."""
GATHERED_PAGES = 4096
"""Pages that one group may copy out of the pool, in each block."""


class Group:
    """Sessions whose steps one call attends: short ones together, a long one alone.

    `tokens` is where in the batch each query is, [sessions * count]; shorter steps repeat their
    last. None: the group is the batch, and its steps are of one length.
    """

    def __init__(self, segments: Sequence[Segment], starts: Sequence[int]) -> None:
        self.segments = segments
        self.count = max(segment.count for segment in segments)
        counts, firsts = _column(s.count for s in segments), _column(s.position for s in segments)
        within = np.minimum(np.arange(self.count), counts - 1)
        self.host_tokens = _column(starts) + within
        self.host_positions = firsts + within
        self.host_table = _table(segments)
        self.tokens: Tensor | None = None
        self._pages: Pages | None = None
        self._views: dict[tuple[int | None, int | None], View] = {}

    @property
    def slots(self) -> NDArray[np.int64]:
        """Where in the pool each query's key and value go: [sessions, count]."""
        pages = np.take_along_axis(self.host_table, self.host_positions // PAGE_TOKENS, 1)
        return pages * PAGE_TOKENS + self.host_positions % PAGE_TOKENS

    def place(self, tokens: Tensor | None, positions: Tensor, table: Tensor) -> None:
        """Take what was copied to the device."""
        self.tokens = tokens
        shape = (len(self.segments), -1)
        self._pages = Pages(self.segments, positions.view(shape), table.view(shape))

    def view(self, how: How) -> View:
        """What a block that reaches so far reads."""
        reach = (how.window, how.chunk)
        if reach not in self._views:
            assert self._pages is not None
            self._views[reach] = View(self._pages, *reach)
        return self._views[reach]

    def queries(self, query: Tensor) -> Tensor:
        """The group's part of [1, heads, total_tokens, head_dim]: [sessions, heads, count, ...]."""
        chosen = query[0] if self.tokens is None else query[0].index_select(1, self.tokens)
        return chosen.unflatten(1, (len(self.segments), self.count)).transpose(0, 1)


class PagedBatch:
    """The sessions of one forward, in order, whose caches are tables of one pool."""

    def __init__(self, segments: Sequence[Segment], pool: PagePool) -> None:
        self._pool = pool
        starts = np.cumsum([0, *(segment.count for segment in segments)]).tolist()
        self._num_tokens: int = starts.pop()
        self._groups = [
            Group([segments[i] for i in members], [starts[i] for i in members])
            for members in alike(segments)
        ]
        self._slots = self._place()

    def write(self, block: int, key: Tensor, value: Tensor) -> None:
        """Keep a block's new keys and values: [1, kv_heads, total_tokens, head_dim]."""
        for pool, new in ((self._pool.keys, key), (self._pool.values, value)):
            pool[block].index_copy_(0, self._slots, new[0].transpose(0, 1))

    def attend(self, block: int, query: Tensor, how: How) -> Tensor:
        """Attend each session's queries to its own keys and values, the new ones included.

        `query` is [1, heads, total_tokens, head_dim]; returns [1, total_tokens, heads, head_dim].
        """
        keys, values = self._pool.keys[block], self._pool.values[block]
        joined: Tensor | None = None
        for group in self._groups:
            out = _attend(group, query, keys, values, how).transpose(1, 2).flatten(0, 1)
            if group.tokens is None:
                return out.contiguous()[None]
            if joined is None:
                joined = out.new_empty(self._num_tokens, *out.shape[1:])
            joined.index_copy_(0, group.tokens, out)
        assert joined is not None
        return joined[None]

    def _place(self) -> Tensor:
        """Copy all indices to the device at once; the slots of the batch's tokens."""
        slots = np.empty(self._num_tokens, np.int64)
        parts = [slots]
        for group in self._groups:
            slots[group.host_tokens] = group.slots
            parts += [group.host_tokens, group.host_positions, group.host_table]
        joined = torch.from_numpy(np.concatenate([part.reshape(-1) for part in parts]))
        placed = to_device(joined, self._pool.device).split([part.size for part in parts])
        is_whole = len(self._groups) == 1 and parts[1].size == self._num_tokens
        for group, tokens, positions, table in zip(
            self._groups, placed[1::3], placed[2::3], placed[3::3], strict=True
        ):
            group.place(None if is_whole else tokens, positions, table)
        return placed[0]


def alike(segments: Sequence[Segment]) -> list[list[int]]:
    """Which segments, by index, one call attends."""
    groups: dict[int, list[int]] = {}
    found: list[list[int]] = []
    for index, segment in enumerate(segments):
        num_pages = -(-segment.end // PAGE_TOKENS)
        size = (max(num_pages, ALIKE_PAGES) - 1).bit_length()
        group = groups.get(size)
        if segment.count > SHORT_TOKENS:
            found.append([index])
        elif group is None or (len(group) + 1) << size > GATHERED_PAGES:
            groups[size] = [index]
            found.append(groups[size])
        else:
            group.append(index)
    return found


def _attend(group: Group, query: Tensor, keys: Tensor, values: Tensor, how: How) -> Tensor:
    """One group's attention to its part of a pool: [sessions, heads, count, head_dim]."""
    view, query = group.view(how), group.queries(query)
    if not how.is_eager and how.slopes is None:
        if view.is_seen_whole:
            return _fused(query, view.read_seen(keys), view.read_seen(values), None, how)
        if view.is_prompt:
            seen_keys, seen_values = view.read_seen(keys), view.read_seen(values)
            return F.scaled_dot_product_attention(
                query,
                seen_keys,
                seen_values,
                is_causal=True,
                scale=how.scaling,
                enable_gqa=query.shape[1] != seen_keys.shape[1],
            )
    read_keys, read_values = view.read(keys), view.read(values)
    if how.is_eager:
        return eager(query, read_keys, read_values, view.mask, how)
    bias = view.bias(query.shape[1] // read_keys.shape[1], query.dtype, how.slopes)
    return _fused(query, read_keys, read_values, bias, how)


def _fused(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, how: How) -> Tensor:
    """The query heads that share a kv head become rows of one query: kernels that take a bias do
    not take groups.
    """
    sessions, heads, count, _ = query.shape
    rows = query.reshape(sessions, keys.shape[1], -1, query.shape[-1])
    out = F.scaled_dot_product_attention(rows, keys, values, attn_mask=bias, scale=how.scaling)
    return out.reshape(sessions, heads, count, -1)


def _table(segments: Sequence[Segment]) -> NDArray[np.int64]:
    """The pages of each session up to its end, shorter ones with their last repeated:
    [sessions, pages].
    """
    sizes = [-(-segment.end // PAGE_TOKENS) for segment in segments]
    table = np.empty((len(segments), max(sizes)), np.int64)
    for row, segment, size in zip(table, segments, sizes, strict=True):
        assert isinstance(segment.cache, PageTable)
        row[:size] = segment.cache.pages[:size]
        row[size:] = row[size - 1]
    return table


def _column(values: Iterable[int]) -> NDArray[np.int64]:
    return np.fromiter(values, np.int64)[:, None]
