"""What blocks of one reach read from a pool for some sessions, and what each query sees of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from worker.kv_cache import Segment
from worker.page_pool import PAGE_TOKENS
from worker.scores import alibi, first_seen, hidden


@dataclass(frozen=True)
class Pages:
    """Sessions' pages on the device: `positions` of the queries [sessions, count], `table`
    [sessions, pages].
    """

    segments: Sequence[Segment]
    positions: Tensor
    table: Tensor


class View:
    """The pages that queries of these sessions can see, through a window or a chunk.

    Made once a forward and shared by its blocks. Sizes are known on the host, values only on the
    device.
    """

    def __init__(self, pages: Pages, window: int | None, chunk: int | None) -> None:
        self._positions = pages.positions
        self._window, self._chunk = window, chunk
        firsts = [first_seen(s.position, window, chunk) for s in pages.segments]
        spans = [
            (first // PAGE_TOKENS, -(-s.end // PAGE_TOKENS))
            for first, s in zip(firsts, pages.segments, strict=True)
        ]
        self._num_pages = max(end - start for start, end in spans)
        columns = self._columns()
        last = pages.table.shape[1] - 1
        self._index = pages.table.gather(1, columns.clamp(max=last)).flatten()
        offsets = torch.arange(PAGE_TOKENS, device=columns.device)
        self._keys = (columns[..., None] * PAGE_TOKENS + offsets).flatten(1)
        (segment, *others), first = pages.segments, firsts[0]
        skipped = first % PAGE_TOKENS
        self._seen = slice(skipped, skipped + segment.end - first)
        # one query that sees all it reads; a prompt's beginning that no window cuts
        self.is_seen_whole = not others and segment.count == 1
        reaches_all = first_seen(segment.end - 1, window, chunk) == 0
        self.is_prompt = not others and segment.position == 0 and reaches_all
        self._biases: dict[tuple[int, torch.dtype], tuple[Tensor | None, Tensor]] = {}

    @cached_property
    def mask(self) -> Tensor:
        """Which of the keys read are hidden from each query: bool [sessions, count, keys]."""
        return hidden(self._positions, self._keys, self._window, self._chunk)

    def bias(self, groups: int, dtype: torch.dtype, slopes: Tensor | None) -> Tensor:
        """The mask, and ALiBi's bias where there are slopes, added to the scores of rows in which
        `groups` query heads are joined: [sessions, kv_heads or 1, groups * count, keys].
        """
        made = self._biases.get((groups, dtype))
        if made is None or made[0] is not slopes:
            made = slopes, self._bias(groups, dtype, slopes)
            self._biases[groups, dtype] = made
        return made[1]

    def read(self, rows: Tensor) -> Tensor:
        """Gather pages of one block, the masked ones too: [sessions, kv_heads, keys, head_dim]."""
        pages = rows.unflatten(0, (-1, PAGE_TOKENS)).index_select(0, self._index)
        return pages.view(len(self._keys), -1, *rows.shape[1:]).transpose(1, 2)

    def read_seen(self, rows: Tensor) -> Tensor:
        """The same of one session, without what none of its queries sees."""
        return self.read(rows)[:, :, self._seen]

    def _bias(self, groups: int, dtype: torch.dtype, slopes: Tensor | None) -> Tensor:
        sessions, count, keys = self.mask.shape
        if slopes is None:
            zeros = torch.zeros(self.mask.shape, dtype=dtype, device=self.mask.device)
            bias = zeros.masked_fill_(self.mask, -torch.inf)[:, None, None]
            bias = bias.expand(sessions, 1, groups, count, keys)
        else:
            bias = alibi(self.mask, self._keys, slopes).to(dtype).unflatten(1, (-1, groups))
        return bias.flatten(2, 3)

    def _columns(self) -> Tensor:
        """The page numbers read of each session: [sessions, pages]."""
        first = self._positions[:, :1] * 0
        if self._window:
            first = (self._positions[:, :1] - self._window + 1).clamp(min=0)
        if self._chunk:
            first = torch.maximum(first, self._positions[:, :1] // self._chunk * self._chunk)
        columns = torch.arange(self._num_pages, device=first.device)
        return first // PAGE_TOKENS + columns
