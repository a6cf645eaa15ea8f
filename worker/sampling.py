"""Logits to token ids, for many sessions at once, as a function of (seed, position) alone.

Gumbel-max: the choice is argmax(log p + noise), with noise = hash(seed, position, token id). It
draws exactly from p (https://arxiv.org/abs/1411.0030), needs no state that a replacement worker
would lack, and survives small numeric differences between machines best: a draw only flips when
two candidates were all but tied.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.wire.messages import LEAST_LOGPROB, Sampling, TokenLogprobs
from worker.tensors import to_device

CANDIDATES = 256
"""Tokens considered for sampling, the likeliest first. Bounds the cost of a large vocabulary."""

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as signed int64


def sample(logits: Tensor, params: Sequence[Sampling], positions: Sequence[int]) -> list[int]:
    """The next token of each row. `logits` is float [rows, vocab_size].

    `positions` are those the new tokens will take. What stays of the likeliest is decided as
    transformers does: top_k, then of those the nucleus (arXiv:1904.09751), then min_p.
    """
    rows = logits.float()
    is_greedy = [p.temperature == 0 or p.top_p == 0 or p.top_k == 1 for p in params]
    if all(is_greedy):
        return rows.argmax(-1).tolist()
    top, ids = rows.topk(min(CANDIDATES, rows.shape[-1]))
    device = rows.device
    temperature = _column([p.temperature or 1.0 for p in params], device)
    log_p = top / temperature - (rows / temperature).logsumexp(-1, keepdim=True)
    keep = _kept(log_p.exp(), params)
    seeds = _column([p.seed for p in params], device)[:, 0]
    noise = gumbel(seeds, _column(positions, device)[:, 0], ids)
    scores = (log_p.double() + noise).masked_fill(~keep, -torch.inf)
    drawn = ids.gather(1, scores.argmax(-1, keepdim=True))[:, 0]
    if any(is_greedy):
        # not ids[:, 0]: of equal logits, argmax and topk may prefer different ones
        drawn = torch.where(_column(is_greedy, device)[:, 0], rows.argmax(-1), drawn)
    return drawn.tolist()


def finite(logits: Tensor) -> Tensor:
    """Which rows of `logits` [rows, vocab_size] are numbers throughout: bool [rows]."""
    return logits.amax(-1).isfinite()  # a NaN anywhere in a row is its maximum


def logprobs(logits: Tensor, ids: Sequence[int], counts: Sequence[int]) -> list[TokenLogprobs]:
    """How likely each row finds its token of `ids`, with as many of the likeliest as `counts` says.

    `logits` is float [rows, vocab_size], as the model gave them.
    """
    log_p = logits.float().log_softmax(-1)
    chosen = log_p.gather(1, _column(ids, log_p.device))[:, 0]
    top, top_ids = log_p.topk(min(max(counts), log_p.shape[-1]))
    return [
        TokenLogprobs(_bounded(own), tuple(row_ids[:count]), tuple(map(_bounded, row[:count])))
        for own, row, row_ids, count in zip(
            chosen.tolist(), top.tolist(), top_ids.tolist(), counts, strict=True
        )
    ]


def gumbel(seeds: Tensor, positions: Tensor, token_ids: Tensor) -> Tensor:
    """Standard Gumbel noise, float64 [rows, candidates], the same bits on every device.

    `seeds` and `positions` are int64 [rows], `token_ids` int64 [rows, candidates].
    """
    keys = _mix(_mix(seeds * _GOLDEN + 0x1234567) + positions)[:, None]
    bits = (_mix(keys + token_ids * _GOLDEN) >> 40) & 0xFFFFFF
    uniform = (bits.double() + 0.5) / (1 << 24)
    return -torch.log(-torch.log(uniform))


def _kept(p: Tensor, params: Sequence[Sampling]) -> Tensor:
    """Which candidates, the likeliest first, may be drawn: bool like `p`; the first always."""
    before = p.cumsum(-1) - p
    nucleus = _column([s.top_p for s in params], p.device)
    if not any(s.top_k for s in params):
        keep = before < nucleus
    else:
        width = p.shape[-1]
        top_k = [min(s.top_k or width, width) for s in params]
        count = _column(top_k, p.device)
        # the nucleus is a share of what top_k leaves, and of everything without top_k
        last = (before + p).gather(1, count - 1)
        without_top_k = _column([not s.top_k for s in params], p.device)
        keep = before < last.masked_fill(without_top_k, 1.0) * nucleus
        keep &= torch.arange(width, device=p.device) < count
    if any(s.min_p for s in params):
        keep &= p >= _column([s.min_p for s in params], p.device) * p[:, :1]
    keep[:, 0] = True
    return keep


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    """One value a row, [rows, 1], put there without waiting for the logits."""
    return to_device(torch.tensor(values)[:, None], device)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 in wrapping int64; `>>` is arithmetic, hence the masks.

    https://prng.di.unimi.it/splitmix64.c
    """
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _bounded(logprob: float) -> float:
    """JSON has no infinity, and rounding may put a certainty just above 0."""
    return min(max(logprob, LEAST_LOGPROB), 0.0)
