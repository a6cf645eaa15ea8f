"""Which waiting steps run together. Pure.

Whatever waits for the same blocks shares a forward: decode steps first, so that running streams
never wait for a prompt, then prefill under a token budget. A session's steps keep their order. Of
the texts that are scored or read one runs at a time, as each of their tokens brings logits or
states along.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from shared.swarm import Span
from worker.parts import PartKey


class Waiting(Protocol):
    """What the batcher needs to know of a step."""

    @property
    def key(self) -> PartKey: ...
    @property
    def count(self) -> int: ...
    @property
    def is_bulky(self) -> bool: ...


Step = TypeVar("Step", bound=Waiting)


def choose(waiting: Sequence[Step], token_budget: int) -> list[Step]:
    """The steps of the next batch, in the order they run. Never empty unless `waiting` is.

    All are for the span of the step that has waited longest. One prefill step always joins,
    however large, so that prompts move on while others decode.
    """
    if not waiting:
        return []
    ready = _first_of_each_session(waiting, waiting[0].key[1])
    decodes = [step for step in ready if step.count == 1][: max(1, token_budget)]
    tokens = len(decodes)
    batch = list(decodes)
    for step in ready:
        fits = tokens + step.count <= token_budget or len(batch) == len(decodes)
        if step.count > 1 and fits and not (step.is_bulky and _has_bulky(batch)):
            batch.append(step)
            tokens += step.count
    return batch


def _has_bulky(batch: Sequence[Waiting]) -> bool:
    return any(step.is_bulky and step.count > 1 for step in batch)


def _first_of_each_session(waiting: Sequence[Step], span: Span) -> list[Step]:
    seen: set[PartKey] = set()
    first: list[Step] = []
    for step in waiting:
        if step.key[1] == span and step.key not in seen:
            first.append(step)
        seen.add(step.key)
    return first
