"""The pages of a span's cache: their memory, and how many sessions own each.

A page holds PAGE_TOKENS positions of every block. What is free is zero: the unused rest of a page
is masked, but a NaN that another session left there would come through the mask.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import StepRefused
from worker.tensors import to_device

PAGE_TOKENS = 16


@dataclass(frozen=True)
class Rows:
    """What one position takes in one block's keys, or in its values."""

    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Memory of one position."""
        return self.kv_heads * self.head_dim * self.dtype.itemsize


Layout = Mapping[int, tuple[Rows, Rows]]
"""By block, its keys and its values."""


def page_bytes(layout: Layout) -> int:
    """Memory of one page."""
    return PAGE_TOKENS * sum(rows.num_bytes for both in layout.values() for rows in both)


class PagePool:
    """Memory for `num_pages` pages, taken at once.

    `keys` and `values` are by block [num_pages * PAGE_TOKENS, kv_heads, head_dim]. Used by the
    engine's thread alone.
    """

    def __init__(self, layout: Layout, num_pages: int, device: torch.device) -> None:
        self.num_pages = num_pages
        self.device = device
        self.page_bytes = page_bytes(layout)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._stores: list[Tensor] = []
        self._allocate(layout)
        self._free = list(reversed(range(num_pages)))
        self._owners = [0] * num_pages

    @property
    def num_free(self) -> int:
        """Pages that nobody owns."""
        return len(self._free)

    @property
    def num_bytes(self) -> int:
        """Memory of the pages that are owned."""
        return (self.num_pages - self.num_free) * self.page_bytes

    def take(self, count: int) -> list[int]:
        """Pages of zeros for one owner. Raises StepRefused, and takes none, when they are short."""
        if count > len(self._free):
            raise StepRefused("no_pages", f"{count} pages are needed, {len(self._free)} are free")
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._owners[page] = 1
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """Count one more owner of each."""
        for page in pages:
            self._owners[page] += 1

    def is_shared(self, page: int) -> bool:
        """Whether others than one session read it, so that it may not be written."""
        return self._owners[page] > 1

    def release(self, pages: Iterable[int]) -> None:
        """Count one owner less of each; what nobody owns any more is cleared and free."""
        gone: list[int] = []
        for page in pages:
            self._owners[page] -= 1
            if not self._owners[page]:
                gone.append(page)
        if gone:
            index = to_device(torch.tensor(gone), self.device)
            for store in self._stores:
                store.index_fill_(1, index, 0)
            self._free.extend(reversed(gone))

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` positions of a page, in every block."""
        for store in self._stores:
            store[:, target, :tokens] = store[:, source, :tokens]

    def _allocate(self, layout: Layout) -> None:
        """One store for all rows that are alike, so that clearing takes few kernels."""
        alike: dict[Rows, list[tuple[dict[int, Tensor], int]]] = defaultdict(list)
        for block, (keys, values) in layout.items():
            alike[keys].append((self.keys, block))
            alike[values].append((self.values, block))
        for rows, places in alike.items():
            shape = (len(places), self.num_pages, PAGE_TOKENS, rows.kv_heads, rows.head_dim)
            store = torch.zeros(shape, dtype=rows.dtype, device=self.device)
            self._stores.append(store)
            for index, (tensors, block) in enumerate(places):
                tensors[block] = store[index].flatten(0, 1)
