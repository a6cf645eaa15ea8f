"""Inputs of spans by position, as the opaque bytes that went over the wire, under a byte budget.

Pure. A checkpoint only shortens a recovery, so whatever does not fit is let go of: the session
that was checkpointed longest ago loses its copies first, and from then on keeps none.
"""

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import cast

from shared.swarm import SessionId
from shared.wire.messages import PayloadDtype


@dataclass(frozen=True)
class Stretch:
    """Inputs `[position, position + count)` of one block: rows of equal size."""

    position: int
    count: int
    dtype: PayloadDtype
    payload: memoryview

    @property
    def end(self) -> int:
        """The position after the last row."""
        return self.position + self.count

    def head(self, end: int) -> "Stretch | None":
        """The part before `end`, if there is any."""
        count = min(self.count, end - self.position)
        if count <= 0:
            return None
        return Stretch(self.position, count, self.dtype, self.rows(self.position, end))

    def rows(self, start: int, end: int) -> memoryview:
        """The bytes of the rows in `[start, end)` that are in this stretch."""
        row_bytes = len(self.payload) // self.count
        first = max(0, start - self.position)
        last = min(self.count, end - self.position)
        return self.payload[first * row_bytes : last * row_bytes]


@dataclass
class _Held:
    """What is kept for one session: per block, stretches without gap or overlap, from 0 on."""

    blocks: dict[int, list[Stretch]] = field(default_factory=dict[int, list[Stretch]])
    num_bytes: int = 0
    is_shed: bool = False


class Checkpoints:
    """All checkpoints of a gateway process."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.num_bytes = 0
        self.shed_bytes = 0
        self._sessions: OrderedDict[SessionId, _Held] = OrderedDict()

    def open(self, session: SessionId) -> None:
        """Begin keeping a session's checkpoints."""
        self._sessions[session] = _Held()

    def drop(self, session: SessionId) -> None:
        """Forget a session."""
        self.num_bytes -= self._sessions.pop(session).num_bytes

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
        held.num_bytes += len(rows)
        self.num_bytes += len(rows)
        self._sessions.move_to_end(session)
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
                freed = len(last.payload) - (len(kept.payload) if kept else 0)
                held.num_bytes -= freed
                self.num_bytes -= freed

    def held(self, session: SessionId, block: int) -> int:
        """How many inputs of a block are held, counted from position 0."""
        stretches = self._sessions[session].blocks.get(block)
        return stretches[-1].end if stretches else 0

    def rows(
        self, session: SessionId, block: int, start: int, end: int
    ) -> tuple[PayloadDtype, bytes]:
        """The dtype and bytes of inputs `[start, end)`, all of which must be held."""
        stretches = self._sessions[session].blocks[block]
        first = bisect_right(stretches, start, key=lambda stretch: stretch.position) - 1
        parts = [s.rows(start, end) for s in stretches[first:] if s.position < end]
        return stretches[first].dtype, b"".join(parts)

    def _shed(self) -> None:
        for held in self._sessions.values():
            if self.num_bytes <= self.budget_bytes:
                return
            self.num_bytes -= held.num_bytes
            self.shed_bytes += held.num_bytes
            held.blocks, held.num_bytes, held.is_shed = {}, 0, True


def _alone(rows: memoryview) -> memoryview:
    """The rows in memory of their own, unless they are most of the frame they came in."""
    frame = cast("bytes", rows.obj)
    return rows if 2 * len(rows) > len(frame) else memoryview(bytes(rows))
