"""From tapped states and logits to what is told of each step that was asked for a reading."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from shared.errors import StepRefused
from shared.swarm import Span
from worker.kv_cache import Segment
from worker.pooling import added
from worker.reading import tapped
from worker.tensors import name_of, to_payload
from worker.work import Outcome, Told, Work

Result = Outcome | StepRefused


def with_states(
    outcomes: Sequence[Result],
    works: Iterable[Work],
    segments: Iterable[Segment],
    states: Mapping[int, Tensor],
    span: Span,
    num_blocks: int,
) -> list[Result]:
    """The outcomes with what was tapped for each of the steps, whose rows follow each other."""
    taken = dict.fromkeys(states, 0)
    results: list[Result] = []
    for outcome, work, segment in zip(outcomes, works, segments, strict=True):
        mine: dict[int, Tensor] = {}
        for block, rows in tapped(work, span, num_blocks).items():
            start = taken[block]
            taken[block] = start + len(rows)
            mine[block] = states[block][start : taken[block]]
        results.append(_with_its_own(outcome, work, segment, mine))
    return results


def told(block: int, positions: tuple[int, ...], rows: Tensor) -> Told:
    """Rows [len(positions), width] as they go to the gateway."""
    return Told(block, positions, name_of(rows.dtype), rows.shape[-1], to_payload(rows))


def _with_its_own(
    outcome: Result, work: Work, segment: Segment, states: Mapping[int, Tensor]
) -> Result:
    if work.read is None or isinstance(outcome, StepRefused):
        return outcome
    if not all(bool(rows.isfinite().all()) for rows in states.values()):
        return StepRefused("engine_failed", "the hidden states are not finite")
    positions = work.read.positions
    if work.read.kind == "states":
        tells = [told(block, positions, rows) for block, rows in states.items()]
        return replace(outcome, told=tuple(tells))
    for block, rows in states.items():  # of which there is one: a mean's
        total = segment.cache.states = added(segment.cache.states, work.position, rows)
        if positions:
            mean = told(block, positions, total.mean(work.read.dimensions))
            return replace(outcome, told=(mean,))
    return outcome
