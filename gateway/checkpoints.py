"""Inputs of spans by position, as the opaque bytes that went over the wire, under a byte budget.

Pure but for the spill that it may be given. A checkpoint only shortens a recovery, so whatever does
not fit is let go of: first what is kept of ended sessions for texts that begin alike, the longest
unused of it first; then the session that holds most loses all of its copies, and from then on keeps
none. With a spill, copies go there before any is let go of: those of ended sessions, then the
oldest of the sessions that hold most.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from shared.errors import CheckpointLost
from shared.swarm import SessionId
from shared.wire.messages import PREFIX_PAGE_TOKENS, PayloadDtype


class Elsewhere(Protocol):
    """Bytes out of memory: `gateway.spill.Spilled`."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> "Elsewhere": ...
    def read(self) -> bytes:
        """The bytes. Raises CheckpointLost when they cannot be had."""
        ...


class Stretch(msgspec.Struct, frozen=True):
    """Inputs `[position, position + count)` of one block: rows of equal size."""

    position: int
    count: int
    dtype: PayloadDtype
    payload: memoryview | Elsewhere

    @property
    def end(self) -> int:
        """The position after the last row."""
        return self.position + self.count

    @property
    def memory_bytes(self) -> int:
        """What it takes of the budget: nothing when its rows lie in a file."""
        return len(self.payload) if isinstance(self.payload, memoryview) else 0

    def head(self, end: int) -> "Stretch | None":
        """The part before `end`, if there is any."""
        count = min(self.count, end - self.position)
        if count <= 0:
            return None
        return Stretch(self.position, count, self.dtype, self.rows(self.position, end))

    def rows(self, start: int, end: int) -> memoryview | Elsewhere:
        """The bytes of the rows in `[start, end)` that are in this stretch."""
        row_bytes = len(self.payload) // self.count
        first = max(0, start - self.position)
        last = min(self.count, end - self.position)
        return self.payload[first * row_bytes : last * row_bytes]


class Overflow(Protocol):
    """Where bytes can go that memory has no room for: `gateway.spill.Spill`."""

    batch_bytes: int
    num_bytes: int

    def take(self, parts: Sequence[memoryview]) -> Elsewhere | None:
        """These bytes, one part after the other, in a file; None without room."""
        ...


@dataclass
class _Held:
    """What is kept for one session: per block, stretches without gap or overlap, from 0 on."""

    blocks: dict[int, list[Stretch]] = field(default_factory=dict[int, list[Stretch]])
    num_bytes: int = 0
    """Those in memory."""
    is_shed: bool = False


@dataclass(frozen=True)
class _Kept:
    """What an ended session left behind: its rows up to the end of the last of its pages."""

    keys: tuple[bytes, ...]
    held: _Held


class Checkpoints:
    """All checkpoints of a gateway process: in memory at most `budget_bytes`, in `num_bytes`."""

    def __init__(self, budget_bytes: int, spill: Overflow | None = None) -> None:
        self.budget_bytes = budget_bytes
        self.num_bytes = 0
        self.shed_bytes = 0
        self._spill = spill
        self._sessions: dict[SessionId, _Held] = {}
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._kept_under: dict[bytes, bytes] = {}

    @property
    def disk_bytes(self) -> int:
        """What is in files, beside what is in memory."""
        return self._spill.num_bytes if self._spill else 0

    def open(self, session: SessionId) -> None:
        """Begin keeping a session's checkpoints."""
        self._sessions[session] = _Held()

    def keep(self, session: SessionId, keys: tuple[bytes, ...]) -> None:
        """Forget a session, but for the rows of its first pages, if any, named by their `keys`."""
        self.truncate(session, len(keys) * PREFIX_PAGE_TOKENS)
        held = self._sessions.pop(session)
        if not (keys and held.blocks) or keys[-1] in self._kept_under:
            self.num_bytes -= held.num_bytes
            return
        for key in keys:  # a longer text takes the place of those it begins with
            self._let_go(key)
        self._kept[keys[-1]] = _Kept(keys, held)
        self._kept_under |= dict.fromkeys(keys, keys[-1])

    def adopt(self, session: SessionId, keys: tuple[bytes, ...]) -> None:
        """Begin a session, which holds nothing yet, with what is kept of these pages."""
        name = self._kept_under.get(keys[-1]) if keys else None
        if name is None or self._sessions[session].blocks:
            return
        self._kept.move_to_end(name)
        for block, stretches in self._kept[name].held.blocks.items():
            for stretch in stretches:
                if head := stretch.head(len(keys) * PREFIX_PAGE_TOKENS):
                    self.add(session, block, head)

    def add(self, session: SessionId, block: int, stretch: Stretch) -> None:
        """Keep the rows of a stretch that come right after what is held; ignore it otherwise.

        The first copy of a position stays: it is what the hops downstream have seen.
        """
        held = self._sessions[session]
        reached = self.held(session, block)
        if held.is_shed or not stretch.position <= reached < stretch.end:
            return
        before = held.blocks.get(block)
        if before and before[-1].dtype != stretch.dtype:
            return  # a replacement computes in another dtype; rows go out in one
        rows = _alone(stretch.rows(reached, stretch.end))
        fresh = Stretch(reached, stretch.end - reached, stretch.dtype, rows)
        held.blocks.setdefault(block, []).append(fresh)
        held.num_bytes += fresh.memory_bytes
        self.num_bytes += fresh.memory_bytes
        if self.num_bytes > self.budget_bytes:
            self._shed()

    def truncate(self, session: SessionId, position: int) -> None:
        """Forget the inputs from `position` on: the text went on otherwise."""
        held = self._sessions[session]
        for stretches in held.blocks.values():
            while stretches and stretches[-1].end > position:
                last = stretches.pop()
                kept = last.head(position)
                if kept:
                    stretches.append(kept)
                freed = last.memory_bytes - (kept.memory_bytes if kept else 0)
                held.num_bytes -= freed
                self.num_bytes -= freed

    def forget(self, session: SessionId, block: int) -> None:
        """Forget the inputs of one block, which turned out to be worth nothing."""
        held = self._sessions[session]
        freed = sum(stretch.memory_bytes for stretch in held.blocks.pop(block, ()))
        held.num_bytes -= freed
        self.num_bytes -= freed

    def held(self, session: SessionId, block: int) -> int:
        """How many inputs of a block are held, counted from position 0."""
        stretches = self._sessions[session].blocks.get(block)
        return stretches[-1].end if stretches else 0

    def rows(
        self, session: SessionId, block: int, start: int, end: int
    ) -> tuple[PayloadDtype, bytes]:
        """The dtype and bytes of inputs `[start, end)`.

        Raises CheckpointLost when they are not all held, or cannot be read again.
        """
        stretches = self._sessions[session].blocks.get(block)
        if not stretches or stretches[-1].end < end:
            raise CheckpointLost(f"inputs {start} to {end} of block {block} are not held")
        first = bisect_right(stretches, start, key=lambda stretch: stretch.position) - 1
        parts = [s.rows(start, end) for s in stretches[first:] if s.position < end]
        return stretches[first].dtype, b"".join(map(_in_memory, parts))

    def _shed(self) -> None:
        while self.num_bytes > self.budget_bytes:
            if self._spill and self._spilled(self._spill):
                continue
            if self._kept:
                self._let_go(next(iter(self._kept)))
                continue
            most = max(self._sessions.values(), key=lambda held: held.num_bytes)
            self.num_bytes -= most.num_bytes
            self.shed_bytes += most.num_bytes
            most.blocks, most.num_bytes, most.is_shed = {}, 0, True

    def _spilled(self, spill: Overflow) -> bool:
        """Move about a batch of copies out of memory, if there is room elsewhere."""
        batch = self._first_to_go(spill.batch_bytes)
        payloads = [
            stretch.payload
            for _, _, stretches in batch
            for stretch in stretches
            if isinstance(stretch.payload, memoryview)
        ]
        rows = spill.take(payloads)
        if rows is None:
            return False
        for held, block, stretches in batch:
            size = sum(len(stretch.payload) for stretch in stretches)
            count = sum(stretch.count for stretch in stretches)
            first = stretches[0]
            spilled = Stretch(first.position, count, first.dtype, rows[:size])
            kept = held.blocks[block]
            at = bisect_left(kept, first.position, key=lambda stretch: stretch.position)
            kept[at : at + len(stretches)] = [spilled]
            rows = rows[size:]
            held.num_bytes -= size
            self.num_bytes -= size
        return True

    def _first_to_go(self, num_bytes: int) -> list[tuple[_Held, int, list[Stretch]]]:
        """At least so much of what is in memory, if there is: whose, of which block, and what."""
        batch: list[tuple[_Held, int, list[Stretch]]] = []
        largest = sorted(self._sessions.values(), key=lambda held: -held.num_bytes)
        for held in [*(kept.held for kept in self._kept.values()), *largest]:
            for block, stretches in held.blocks.items():
                oldest: list[Stretch] = []
                for stretch in stretches:
                    if stretch.memory_bytes and num_bytes > 0:
                        oldest.append(stretch)
                        num_bytes -= stretch.memory_bytes
                if oldest:
                    batch.append((held, block, oldest))
            if num_bytes <= 0:
                break
        return batch

    def _let_go(self, name: bytes) -> None:
        """Forget what is kept under this name, if it is the last page of anything."""
        if kept := self._kept.pop(name, None):
            self.num_bytes -= kept.held.num_bytes
            for key in kept.keys:
                if self._kept_under.get(key) == name:
                    del self._kept_under[key]


def _in_memory(rows: memoryview | Elsewhere) -> bytes | memoryview:
    return rows if isinstance(rows, memoryview) else rows.read()


def _alone(rows: memoryview | Elsewhere) -> memoryview | Elsewhere:
    """The rows in memory of their own, unless they are most of the frame they came in."""
    if not isinstance(rows, memoryview) or 2 * len(rows) > memoryview(rows.obj).nbytes:
        return rows
    return memoryview(bytes(rows))
