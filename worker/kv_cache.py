"""Keys and values of many sessions: one contiguous slab a session and block.

Pages are accounted in sessions.py; this file only holds what they stand for. On CPU a slab with
one attention call a session is far faster than gathering scattered pages, which is why a page is
a unit of account here and not of layout.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.own_cache import OwnCache
from worker.parts import PartKey

PAGE_TOKENS = 16


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
    """The slabs of all sessions on this worker. Used by the engine's thread alone."""

    def __init__(self) -> None:
        self._slabs: dict[PartKey, Slab] = {}
        self._kept: set[PartKey] = set()

    def slab(self, key: PartKey, pages: int) -> Slab:
        """The session's slab, with room for `pages`."""
        slab = self._slabs.setdefault(key, Slab(0))
        slab.capacity = max(slab.capacity, pages * PAGE_TOKENS)
        return slab

    def length(self, key: PartKey) -> int:
        """How many positions of the session's part are computed."""
        slab = self._slabs.get(key)
        return slab.length if slab else 0

    def copy(self, source: PartKey, target: PartKey, tokens: int, pages: int) -> None:
        """Begin a session's part with the first `tokens` positions of another cache."""
        if kept := self._slabs.get(source):
            self._slabs[target] = kept.head(tokens, pages * PAGE_TOKENS)

    def rename(self, key: PartKey, name: PartKey) -> None:
        """Keep a part's slab under another name."""
        if slab := self._slabs.pop(key, None):
            self._slabs[name] = slab
            self._kept.add(name)

    @property
    def num_parts(self) -> int:
        """How many sessions' parts have a cache, those kept for others left out."""
        return len(self._slabs) - len(self._kept)

    def free(self, key: PartKey) -> None:
        """Forget a session's part."""
        self._slabs.pop(key, None)
        self._kept.discard(key)

    @property
    def num_bytes(self) -> int:
        """Memory held by all slabs."""
        return sum(slab.num_bytes for slab in self._slabs.values())


@dataclass(frozen=True)
class Segment:
    """The part of a batch that belongs to one session: `count` tokens from `position` on."""

    slab: Slab
    position: int
    count: int

    @property
    def end(self) -> int:
        """The session's length after this step."""
        return self.position + self.count


def position_ids(segments: list[Segment], device: torch.device) -> Tensor:
    """Every token's position, [1, total_tokens]."""
    ranges = [torch.arange(s.position, s.end, device=device) for s in segments]
    return torch.cat(ranges)[None]
