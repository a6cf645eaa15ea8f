"""What is read of one text: asks for it step by step, and keeps what comes. Pure.

The rows are opaque bytes. What workers tell again, after a loss, is left aside, so that every row
is kept once, in the order of positions.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from shared.errors import GenerationFailed
from shared.swarm import ModelSpec, Span
from shared.wire.messages import ModelDtype, Reading, States, row_bytes


@dataclass
class Rows:
    """The rows of one block that have come, without gap from the first one asked for."""

    dtype: ModelDtype = "float32"
    width: int = 0
    count: int = 0
    parts: list[memoryview] = field(default_factory=list[memoryview])

    def add(self, states: States, payload: memoryview, num_known: int) -> None:
        """Keep what is new: all but the first `num_known`."""
        if self.parts and self.dtype != states.dtype:
            raise GenerationFailed(
                "mixed_dtypes",
                f"workers compute block {states.block} in {self.dtype} and in {states.dtype}, and "
                "one of them was lost; please try again",
            )
        self.dtype, self.width = states.dtype, states.width
        self.parts.append(payload[num_known * row_bytes(states.dtype, states.width) :])
        self.count += len(states.positions) - num_known


class Reader:
    """The reading of one text, `asked` in full."""

    def __init__(self, asked: Reading, spec: ModelSpec) -> None:
        self.asked = asked
        self._spec = spec
        widths = {"logits": spec.vocab_size, "mean": asked.dimensions or spec.hidden_size}
        self._width = widths.get(asked.kind, spec.hidden_size)
        blocks = asked.blocks if asked.kind == "states" else (spec.num_blocks,)
        self.rows = {block: Rows() for block in blocks}

    @property
    def span(self) -> Span:
        """The blocks that have to run for it."""
        return Span(0, max(1, *self.rows))

    @property
    def is_complete(self) -> bool:
        """Whether all has come."""
        return all(rows.count == len(self.asked.positions) for rows in self.rows.values())

    @property
    def reached(self) -> int:
        """Up to which position all that is asked for has come. Short of the text's end unless it
        is complete, as its last position is asked for."""
        count = min(rows.count for rows in self.rows.values())
        return self.asked.positions[count - 1] + 1 if count else 0

    def step_tokens(self, most: int) -> int:
        """How many tokens a step may have, at most `most`, so that no worker has to cut it."""
        at_once = self.asked.rows_at_once(self._spec.hidden_size, self._spec.vocab_size)
        return most if len(self.asked.positions) <= at_once else min(most, at_once)

    def part(self, start: int, end: int) -> Reading | None:
        """What a step of inputs `[start, end)` is to be asked for."""
        positions = self.asked.positions
        here = positions[bisect_left(positions, start) : bisect_left(positions, end)]
        if not here and self.asked.kind != "mean":
            return None
        return msgspec.structs.replace(self.asked, positions=here)

    def owes(self, span: Span) -> bool:
        """Whether a hop of this span has yet to tell something."""
        most = len(self.asked.positions)
        return any(tells(span, block) and rows.count < most for block, rows in self.rows.items())

    def fits(self, states: States, num_bytes: int) -> bool:
        """Whether this can be a part of the answer."""
        expected = len(states.positions) * row_bytes(states.dtype, self._width)
        is_asked = states.block in self.rows and self._start_of(states.positions) is not None
        return is_asked and states.width == self._width and num_bytes == expected

    def take(self, states: States, payload: memoryview) -> bool:
        """Keep what fits and comes next; whether any of it was new.

        Raises GenerationFailed when it cannot stand beside what came before.
        """
        rows, start = self.rows[states.block], self._start_of(states.positions)
        if start is None or not start <= rows.count < start + len(states.positions):
            return False
        rows.add(states, payload, rows.count - start)
        return True

    def _start_of(self, positions: Sequence[int]) -> int | None:
        """Where these positions stand among those asked for, if they follow each other there."""
        start = bisect_left(self.asked.positions, positions[0])
        is_here = self.asked.positions[start : start + len(positions)] == tuple(positions)
        return start if is_here else None


def tells(span: Span, block: int) -> bool:
    """Whether a hop of this span tells what `block` is given: all but what its first is given."""
    return span.start < block <= span.end or span.start == block == 0
