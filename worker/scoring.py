"""How likely a model finds the tokens of a text it is given, at the last hop."""

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from shared.errors import StepRefused
from shared.wire.messages import SamplingContext, TokenLogprobs
from worker.sampling import finite, logprobs
from worker.wants import unpacked

MAX_SCORED = 64
"""Tokens of a session that one forward scores, and only one session's: bounds the logits, float32
[MAX_SCORED, vocab_size], that a prompt brings into memory at a time."""


def followers(context: SamplingContext, position: int, count: int, vocab_size: int) -> list[int]:
    """The tokens to score of those that follow inputs `[position, position + count)`, the first of
    which follows the first input. Raises StepRefused when they cannot be told."""
    if (scoring := context.scoring) is None:
        return []
    ids = unpacked(scoring.token_ids, vocab_size)
    first = position + 1 - scoring.position
    if first < 0:
        raise StepRefused("bad_step", f"scores from {scoring.position} on in a step at {position}")
    return ids[first : first + count].tolist()


def rows_wanted(position: int, sample: Sequence[int], num_scored: int) -> list[int]:
    """The rows of a step at `position` whose logits are wanted, in order; those to score first."""
    return sorted({*range(num_scored), *(after - position for after in sample)})


def score(logits: Tensor, ids: Sequence[int], num_logprobs: int) -> tuple[TokenLogprobs, ...]:
    """How likely each row finds its token of `ids`. `logits` is float [rows, vocab_size].

    Raises StepRefused when they are no numbers.
    """
    if not bool(finite(logits).all()):
        raise StepRefused("engine_failed", "the logits are not finite")
    own = logits.gather(1, torch.tensor(ids, device=logits.device)[:, None])
    ranks = (1 + (logits > own).sum(-1)).tolist()
    told = logprobs(logits, ids, [num_logprobs] * len(ids))
    return tuple(
        msgspec.structs.replace(each, rank=rank) for each, rank in zip(told, ranks, strict=True)
    )
