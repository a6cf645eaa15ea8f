"""From what a forward gives to what each of its steps comes to."""

from dataclasses import replace

import torch
from torch import Tensor

from shared.errors import StepRefused
from shared.wire.messages import PayloadDtype, TokenLogprobs, WireDtype
from worker.reading import rows_of_logits
from worker.sampling import finite, logprobs, sample
from worker.scoring import rows_wanted, score
from worker.tensors import encode_int8, name_of, to_device, to_payload
from worker.told import told
from worker.wants import Want, bent
from worker.work import Asked, Outcome, Work


def packed(hidden: Tensor, works: list[Work]) -> list[Outcome | StepRefused]:
    """Hidden states as they go to the next hop: copied off the device at once, and then cut."""
    as_dtype: dict[WireDtype, tuple[bytes, PayloadDtype]] = {}
    wanted = {work.wire_dtype for work in works}
    if "int8" in wanted:
        as_dtype["int8"] = encode_int8(hidden), "int8b64"
    if "model" in wanted:
        as_dtype["model"] = to_payload(hidden), name_of(hidden.dtype)
    outcomes: list[Outcome | StepRefused] = []
    row = 0
    for work in works:
        payload, dtype = as_dtype[work.wire_dtype]
        row_size = len(payload) // len(hidden)
        end = row + work.count
        outcomes.append(Outcome(payload[row * row_size : end * row_size], dtype))
        row = end
    return outcomes


def rows_to_keep(works: list[Work], asked: list[Asked]) -> list[int]:
    """The rows of the flattened batch whose logits are wanted, in order."""
    rows: list[int] = []
    offset = 0
    for work, ask in zip(works, asked, strict=True):
        rows.extend(offset + row for row in _rows_of(work, ask))
        offset += work.count
    return rows


def _rows_of(work: Work, asked: Asked) -> list[int]:
    if rows := rows_of_logits(work):  # such a step samples and scores nothing
        return rows
    return rows_wanted(work.position, work.sample, len(asked.followers))


def answers(works: list[Work], asked: list[Asked], logits: Tensor) -> list[Outcome | StepRefused]:
    """The tokens, scores and logits of each step, whose rows of `logits` follow each other."""
    wants = [ask.wants for ask in asked]
    if not any(
        ask.followers or rows_of_logits(work) for work, ask in zip(works, asked, strict=True)
    ):
        return _choose_tokens(wants, logits)
    sampled: list[int] = []
    starts: list[int] = []
    start = 0
    for work, ask in zip(works, asked, strict=True):
        rows = _rows_of(work, ask)
        sampled.extend(start + rows.index(position - work.position) for position in work.sample)
        starts.append(start)
        start += len(rows)
    chosen = _choose_tokens(wants, logits[_index(sampled, logits)])
    return [
        _with_logits(_with_scores(outcome, work, ask, logits[start:]), work, logits[start:])
        for outcome, work, ask, start in zip(chosen, works, asked, starts, strict=True)
    ]


def _with_scores(
    outcome: Outcome | StepRefused, work: Work, asked: Asked, logits: Tensor
) -> Outcome | StepRefused:
    """The outcome of a step with its scores, for which the first rows of `logits` are."""
    num_scored = len(asked.followers)
    if isinstance(outcome, StepRefused) or not num_scored:
        return outcome
    try:
        most = work.context.sampling.num_prompt_logprobs or 0
        scores = score(logits[:num_scored], asked.followers, most)
    except StepRefused as error:
        return error
    return replace(outcome, scores=scores)


def _with_logits(
    outcome: Outcome | StepRefused, work: Work, logits: Tensor
) -> Outcome | StepRefused:
    """The outcome of a step with the logits it asked for, which come first in `logits`."""
    rows = logits[: len(rows_of_logits(work))]
    if isinstance(outcome, StepRefused) or work.read is None or not len(rows):
        return outcome
    if not bool(finite(rows).all()):
        return StepRefused("engine_failed", "the logits are not finite")
    return replace(outcome, told=(told(work.key[1].end, work.read.positions, rows),))


def _choose_tokens(wants: list[list[Want]], logits: Tensor) -> list[Outcome | StepRefused]:
    """The tokens of each step, whose rows of `logits` follow each other."""
    flat = [want for of_step in wants for want in of_step]
    ids = sample(bent(logits, flat), [w.sampling for w in flat], [w.position for w in flat])
    told = _logprobs(flat, logits, ids)
    are_finite = finite(logits).tolist()
    outcomes: list[Outcome | StepRefused] = []
    taken = 0
    for of_step in wants:
        rows = range(taken, taken + len(of_step))
        if all(are_finite[row] for row in rows):
            tokens = tuple(ids[row] for row in rows)
            outcomes.append(
                Outcome(token_ids=tokens, logprobs=tuple(told[row] for row in rows if row in told))
            )
        else:
            outcomes.append(StepRefused("engine_failed", "the logits are not finite"))
        taken = rows.stop
    return outcomes


def _logprobs(wants: list[Want], logits: Tensor, ids: list[int]) -> dict[int, TokenLogprobs]:
    """By row, for those that asked."""
    counts = {
        row: want.sampling.num_logprobs
        for row, want in enumerate(wants)
        if want.sampling.num_logprobs is not None
    }
    if not counts:
        return {}
    rows = list(counts)
    told = logprobs(logits[_index(rows, logits)], [ids[row] for row in rows], list(counts.values()))
    return dict(zip(rows, told, strict=True))


def _index(rows: list[int], logits: Tensor) -> Tensor:
    """Row numbers where the logits are, put there without waiting for these."""
    return to_device(torch.tensor(rows, dtype=torch.int64), logits.device)
