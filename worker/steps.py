"""Cuts a step into pieces that share the worker fairly. Pure."""

from collections.abc import Iterator

import msgspec

from shared.wire.messages import Step
from worker.reading import part_of_reading


def pieces(step: Step, payload: memoryview, most: int) -> Iterator[tuple[Step, memoryview]]:
    """The step as steps of at most `most` tokens, each with its rows of the payload.

    Each samples and reads what lies in it; the last acknowledges for all. A long prompt that comes
    in one step then holds up running streams for no longer than one piece.
    """
    row_bytes = len(payload) // step.count
    for start in range(0, step.count, most):
        count = min(most, step.count - start)
        position = step.position + start
        is_last = start + count == step.count
        yield (
            msgspec.structs.replace(
                step,
                position=position,
                count=count,
                sample=tuple(p for p in step.sample if position <= p < position + count),
                acknowledge=step.acknowledge and is_last,
                read=part_of_reading(step.read, position, position + count),
            ),
            payload[start * row_bytes : (start + count) * row_bytes],
        )
