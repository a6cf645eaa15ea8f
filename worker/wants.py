"""What is asked of the tokens a step samples, and how that bends the logits.

A want is a function of the step's context alone, so a replacement bends the same logits the same
way. Penalties come first, as they look at what the model itself says; then biases, then what is
forbidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import GrammarError, StepRefused
from shared.wire.messages import Sampling, SamplingContext
from worker.grammar import ID_BYTES, Grammars, Ids, Mask
from worker.tensors import to_device

NO_IDS: Ids = np.empty(0, np.int64)


@dataclass(frozen=True)
class Want:
    """One token to choose, for `position`.

    `generated` holds the answer's tokens before it and `prompt` the prompt's, where they matter;
    `allowed`, a boolean for each token of the vocabulary, what the grammar leaves; `banned` the
    tokens that may not be chosen besides.
    """

    sampling: Sampling
    position: int
    prompt: Ids = field(default_factory=lambda: NO_IDS)
    generated: Ids = field(default_factory=lambda: NO_IDS)
    allowed: Mask | None = None
    banned: Ids = field(default_factory=lambda: NO_IDS)


def wants_of(
    context: SamplingContext,
    sample: Sequence[int],
    grammars: Grammars | None,
    vocab_size: int,
) -> list[Want]:
    """What a step asks of the tokens that follow the positions in `sample`, which are in a row.

    Raises StepRefused when that makes no sense or cannot be had.
    """
    if not sample:
        return []
    sampling, positions = context.sampling, [position + 1 for position in sample]
    if not (sampling.reads_text or sampling.min_tokens or sampling.logit_bias):
        return [Want(sampling, position) for position in positions]
    if any(token_id >= vocab_size for token_id, _ in sampling.logit_bias):
        raise StepRefused("bad_step", f"logit_bias names a token beyond {vocab_size}")
    prompt, text = unpacked(context.prompt, vocab_size), unpacked(context.generated, vocab_size)
    lengths = [position - context.start for position in positions]
    if lengths[0] < 0 or (sampling.reads_text and lengths[-1] > len(text)):
        raise StepRefused("bad_step", f"the context holds {len(text)} tokens, not {lengths[-1]}")
    stops = np.array([i for i in sampling.stop_ids if i < vocab_size], np.int64)
    masks = _masks(context, lengths, stops, grammars, vocab_size)
    return [
        Want(
            sampling,
            position,
            prompt,
            text[:length],
            _without(mask, stops) if length < sampling.min_tokens else mask,
            stops if mask is None and length < sampling.min_tokens else NO_IDS,
        )
        for position, length, mask in zip(positions, lengths, masks, strict=True)
    ]


def text_before(context: SamplingContext, sample: Sequence[int]) -> bytes:
    """The packed ids of the answer that come before the first of the tokens that a step samples."""
    return context.generated[: ID_BYTES * max(0, sample[0] + 1 - context.start)]


def unpacked(packed: bytes, vocab_size: int) -> Ids:
    """Ids as a context packs them. Raises StepRefused."""
    if len(packed) % ID_BYTES:
        raise StepRefused("bad_step", f"{len(packed)} bytes are no packed ids")
    ids = np.frombuffer(packed, "<i4").astype(np.int64)
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise StepRefused("bad_step", f"the context names a token beyond {vocab_size}")
    return ids


def bent(logits: Tensor, wants: Sequence[Want]) -> Tensor:
    """`logits`, float [rows, vocab_size], as the wants would have them; itself where they do not
    care.

    Repetition penalty as in transformers' RepetitionPenaltyLogitsProcessor, the others as in
    https://platform.openai.com/docs/api-reference/chat/create (once or for each occurrence).
    """
    repeated = [(i, _distinct(w), w.sampling.repetition_penalty) for i, w in enumerate(wants)]
    repeated = [edit for edit in repeated if edit[2] != 1]
    counted = [(i, *_penalties(w)) for i, w in enumerate(wants) if _counts(w)]
    biased = [(i, *_biases(w)) for i, w in enumerate(wants) if w.sampling.logit_bias]
    banned = [(i, w.banned, 0.0) for i, w in enumerate(wants) if len(w.banned)]
    masked = [(i, w.allowed) for i, w in enumerate(wants) if w.allowed is not None]
    if not (repeated or counted or biased or banned or masked):
        return logits
    rows = logits.float().clone()
    if repeated:
        index, penalty = _flat(repeated, rows)
        seen = rows[index]
        rows[index] = torch.where(seen < 0, seen * penalty, seen / penalty)
    for edits in filter(None, (counted, biased)):
        index, change = _flat(edits, rows)
        rows[index] += change
    if banned:
        rows[_flat(banned, rows)[0]] = -torch.inf
    if masked:
        which = to_device(torch.tensor([i for i, _ in masked]), rows.device)
        allowed = torch.from_numpy(np.stack([mask for _, mask in masked]))
        allowed = to_device(allowed, rows.device)
        rows[which] = rows[which].masked_fill(~allowed, -torch.inf)
    return rows


def _masks(
    context: SamplingContext,
    lengths: Sequence[int],
    stops: Ids,
    grammars: Grammars | None,
    vocab_size: int,
) -> Sequence[Mask | None]:
    grammar = context.sampling.grammar
    if grammar is None:
        return [None] * len(lengths)
    if grammars is None:
        raise StepRefused("no_grammars", "this worker has no tokenizer.json, which grammars need")
    start, end = (ID_BYTES * length for length in (lengths[0], lengths[-1]))
    text, guesses = context.generated[:start], context.generated[start:end]
    try:
        return grammars.masks(
            grammar,
            text,
            unpacked(guesses, vocab_size).tolist(),
            stops=stops,
            vocab_size=vocab_size,
        )
    except GrammarError as error:
        raise StepRefused("bad_sampling", f"the grammar cannot be followed: {error}") from error


def _without(mask: Mask | None, stops: Ids) -> Mask | None:
    """The mask without `stops`, unless nothing else is left: the grammar has the last word."""
    if mask is None:
        return None
    others = mask.copy()
    others[stops] = False
    return others if others.any() else mask


def _counts(want: Want) -> bool:
    penalties = want.sampling.presence_penalty or want.sampling.frequency_penalty
    return bool(penalties) and len(want.generated) > 0


def _distinct(want: Want) -> Ids:
    if want.sampling.repetition_penalty == 1:
        return NO_IDS
    return np.union1d(want.prompt, want.generated)


def _penalties(want: Want) -> tuple[Ids, NDArray[np.float64]]:
    ids, counts = np.unique(want.generated, return_counts=True)
    sampling = want.sampling
    for_each = counts.astype(np.float64) * sampling.frequency_penalty
    return ids, -(for_each + sampling.presence_penalty)


def _biases(want: Want) -> tuple[Ids, NDArray[np.float64]]:
    biases = dict(want.sampling.logit_bias)
    return np.array(list(biases), np.int64), np.array(list(biases.values()), np.float64)


def _flat(
    edits: Sequence[tuple[int, Ids, NDArray[np.float64] | float]], rows: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Edits of single logits as one index and the values there; no place occurs twice."""
    which = np.concatenate([np.full(len(ids), row) for row, ids, _ in edits])
    ids = np.concatenate([ids for _, ids, _ in edits])
    values = np.concatenate([np.broadcast_to(value, len(ids)) for _, ids, value in edits])
    row, column, value = (
        to_device(torch.from_numpy(array), rows.device) for array in (which, ids, values)
    )
    return (row, column), value.to(rows.dtype)
