"""One session's cache as pages of a pool: which they are, in order."""

from array import array

import numpy as np
from numpy.typing import NDArray

from worker.own_cache import OwnCache
from worker.page_pool import PAGE_TOKENS, PagePool
from worker.pooling import RunningSum


class PageTable:
    """The pages of one session's part.

    `length` says how many positions hold what the session's steps computed. Pages may be shared
    with other tables; none that is shared is written.
    """

    own: OwnCache | None = None  # families with a cache of their own have no pages
    states: RunningSum | None = None  # of the last states, where their mean is asked for

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.length = 0
        self._pages = array("q")

    @property
    def pages(self) -> NDArray[np.int64]:
        """The pages in order. Not to be held while the table changes."""
        return np.frombuffer(self._pages, np.int64)

    def begin(self, position: int, end: int) -> None:
        """Forget what comes at and after `position`, and make room up to `end`.

        Raises StepRefused, having forgotten, when the pool is full.
        """
        self.length = position
        kept = -(-position // PAGE_TOKENS)
        self._cut(kept)
        used = position % PAGE_TOKENS
        copied = used and self.pool.is_shared(self._pages[-1])
        fresh = self.pool.take(-(-end // PAGE_TOKENS) - kept + bool(copied))
        if copied:
            mine = fresh.pop(0)
            self.pool.copy(self._pages[-1], mine, used)
            self._cut(kept - 1)
            self._pages.append(mine)
        self._pages.extend(fresh)

    def head(self, tokens: int) -> "PageTable":
        """A table of the first `tokens` positions that shares their pages."""
        head = PageTable(self.pool)
        head.length = min(tokens, self.length)
        head._pages = self._pages[: -(-head.length // PAGE_TOKENS)]
        self.pool.share(head._pages)
        return head

    def free(self) -> None:
        """Give all pages back."""
        self._cut(0)
        self.length = 0

    def _cut(self, count: int) -> None:
        """Keep the first `count` pages only."""
        gone = self._pages[count:]
        if gone:
            del self._pages[count:]
            self.pool.release(gone)
