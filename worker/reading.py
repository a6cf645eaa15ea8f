"""What of a reading concerns one worker, and which rows of a forward that takes. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

import msgspec

from shared.errors import StepRefused
from shared.swarm import Span
from shared.wire.messages import Reading, Step

Tap = dict[int, list[int]]
"""By block, the rows of a forward at which the states given to it are wanted."""


class Reads(Protocol):
    """A step that may be asked for more than its outputs."""

    @property
    def position(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def read(self) -> Reading | None: ...


def check(step: Step, num_blocks: int, hidden_size: int) -> None:
    """Raises StepRefused when what a step asks to be told makes no sense."""
    read, end = step.read, step.position + step.count
    if read is None:
        return
    if step.sample:
        raise StepRefused("bad_step", "asks for a sample and a reading at once")
    if any(not step.position <= position < end for position in read.positions):
        raise StepRefused("bad_step", "asks for a reading outside the step")
    if not (_ascend(read.positions) and _ascend(read.blocks)):
        raise StepRefused("bad_step", "asks for a reading out of order")
    if any(block > num_blocks for block in read.blocks):
        raise StepRefused("bad_step", f"asks for states beyond block {num_blocks}")
    if read.kind != "states" and step.hops[-1].span.end != num_blocks:
        raise StepRefused("bad_step", f"asks for {read.kind} before the last block")
    if read.kind == "mean" and any(position != end - 1 for position in read.positions):
        raise StepRefused("bad_step", "asks for a mean that does not end with the step")
    if read.dimensions > hidden_size:
        raise StepRefused("bad_step", f"asks for {read.dimensions} of {hidden_size} dimensions")


def part_of_reading(read: Reading | None, start: int, end: int) -> Reading | None:
    """What of a reading lies in `[start, end)`. A mean takes all there is."""
    if read is None:
        return None
    positions = tuple(p for p in read.positions if start <= p < end)
    if not positions and read.kind != "mean":
        return None
    return msgspec.structs.replace(read, positions=positions)


def told(read: Reading, span: Span) -> list[int]:
    """The blocks whose states a hop of `span` tells: the one after it is in, its first is not."""
    first = 0 if span.start == 0 else span.start + 1
    return [block for block in read.blocks if first <= block <= span.end]


def tap_of(works: Iterable[Reads], span: Span, num_blocks: int) -> Tap:
    """What has to be tapped of a forward through `span` over these steps, one after the other."""
    tap: Tap = defaultdict(list)
    offset = 0
    for work in works:
        for block, rows in tapped(work, span, num_blocks).items():
            tap[block].extend(offset + row for row in rows)
        offset += work.count
    return dict(tap)


def tapped(work: Reads, span: Span, num_blocks: int) -> dict[int, Sequence[int]]:
    """By block, the rows of one step at which the states given to it are wanted."""
    read = work.read
    if read is None:
        return {}
    if read.kind == "mean":
        return {num_blocks: range(work.count)} if span.end == num_blocks else {}
    rows = [position - work.position for position in read.positions]
    return dict.fromkeys(told(read, span), rows) if rows else {}


def rows_of_logits(work: Reads) -> list[int]:
    """The rows of a step whose logits are to be told."""
    if work.read is None or work.read.kind != "logits":
        return []
    return [position - work.position for position in work.read.positions]


def _ascend(numbers: Sequence[int]) -> bool:
    return all(before < after for before, after in pairwise(numbers))
