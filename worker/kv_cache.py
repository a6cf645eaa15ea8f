"""Keys and values of many sessions: a slab a session and block, or real pages of one pool.

Pages are accounted in sessions.py; this file holds what they stand for. On CPU that is a contiguous
slab: one attention call a session is far faster there than gathering scattered pages. On CUDA it is
pages, which grow without copies and are shared by sessions whose texts begin alike.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.own_cache import OwnCache
from worker.page_pool import PAGE_TOKENS, PagePool
from worker.page_table import PageTable
from worker.parts import PartKey
from worker.pooling import RunningSum
from worker.tensors import to_device


@dataclass
class Slab:
    """One session's cache: per block, keys and values [kv_heads, capacity, head_dim].

    `length` says how many positions hold what the session's steps computed.
    """

    capacity: int
    length: int = 0
    keys: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    values: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    own: OwnCache | None = None  # instead of keys and values, where a family needs its own
    states: RunningSum | None = None  # of the last states, where their mean is asked for

    def write(self, block: int, position: int, keys: Tensor, values: Tensor) -> None:
        """Put keys and values [kv_heads, count, head_dim] at `position` and those after it."""
        self._put(self.keys, block, position, keys)
        self._put(self.values, block, position, values)

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        held = sum(t.nbytes for t in (*self.keys.values(), *self.values.values()))
        return held + (self.own.num_bytes if self.own else 0)

    def head(self, tokens: int, capacity: int) -> "Slab":
        """A copy of the first `tokens` positions, with room for `capacity`."""
        copy = Slab(capacity, min(tokens, self.length))
        for mine, theirs in ((self.keys, copy.keys), (self.values, copy.values)):
            for block, tensor in mine.items():
                room = tensor.new_empty(tensor.shape[0], capacity, tensor.shape[2])
                room[:, : copy.length] = tensor[:, : copy.length]
                theirs[block] = room
        return copy

    def _put(self, slabs: dict[int, Tensor], block: int, position: int, new: Tensor) -> None:
        slab = slabs.get(block)
        if slab is None or slab.shape[1] < self.capacity:
            larger = new.new_empty(new.shape[0], self.capacity, new.shape[2])
            if slab is not None:
                larger[:, :position] = slab[:, :position]
            slabs[block] = slab = larger
        slab[:, position : position + new.shape[1]] = new


class KvCache:
    """The caches of all sessions on this worker. Used by the engine's thread alone.

    They are tables of `pool` where there is one, else slabs.
    """

    def __init__(self, pool: PagePool | None = None) -> None:
        self._pool = pool
        self._caches: dict[PartKey, Slab | PageTable] = {}
        self._kept: set[PartKey] = set()

    def segment(self, key: PartKey, position: int, count: int, pages: int) -> "Segment":
        """Begin a step: forget what lies beyond `position`, and make room for `count` tokens more.

        `pages` is what the session has been promised in all. Raises StepRefused when there is no
        room, which the account of those promises should prevent.
        """
        cache = self._caches.get(key)
        if cache is None:
            cache = self._caches[key] = PageTable(self._pool) if self._pool else Slab(0)
        if isinstance(cache, PageTable):
            cache.begin(position, position + count)
        else:
            cache.length = position  # what lies beyond is overwritten, or half so
            cache.capacity = max(cache.capacity, pages * PAGE_TOKENS)
        return Segment(cache, position, count)

    def length(self, key: PartKey) -> int:
        """How many positions of the session's part are computed."""
        cache = self._caches.get(key)
        return cache.length if cache else 0

    def copy(self, source: PartKey, target: PartKey, tokens: int, pages: int) -> None:
        """Begin a session's part with the first `tokens` positions of another cache."""
        kept = self._caches.get(source)
        if kept is None:
            return
        is_paged = isinstance(kept, PageTable)
        head = kept.head(tokens) if is_paged else kept.head(tokens, pages * PAGE_TOKENS)
        self.free(target)
        self._caches[target] = head

    def rename(self, key: PartKey, name: PartKey) -> None:
        """Keep a part's cache under another name."""
        if cache := self._caches.pop(key, None):
            self.free(name)
            self._caches[name] = cache
            self._kept.add(name)

    @property
    def num_parts(self) -> int:
        """How many sessions' parts have a cache, those kept for others left out."""
        return len(self._caches) - len(self._kept)

    def free(self, key: PartKey) -> None:
        """Forget a session's part."""
        cache = self._caches.pop(key, None)
        if isinstance(cache, PageTable):
            cache.free()
        self._kept.discard(key)

    @property
    def num_bytes(self) -> int:
        """Memory held by all sessions; what they share is counted once."""
        if self._pool:
            return self._pool.num_bytes
        return sum(c.num_bytes for c in self._caches.values() if isinstance(c, Slab))


@dataclass(frozen=True)
class Segment:
    """The part of a batch that belongs to one session: `count` tokens from `position` on."""

    cache: Slab | PageTable
    position: int
    count: int

    @property
    def end(self) -> int:
        """The session's length after this step."""
        return self.position + self.count


def position_ids(segments: list[Segment], device: torch.device) -> Tensor:
    """Every token's position, [1, total_tokens]."""
    ranges = [torch.arange(s.position, s.end) for s in segments]
    return to_device(torch.cat(ranges)[None], device)
