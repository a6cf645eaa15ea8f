"""Logits to token ids, for many sessions at once, as a function of (seed, position) alone.

Gumbel-max: the choice is argmax(log p + noise), with noise = hash(seed, position, token id). It
draws exactly from p (https://arxiv.org/abs/1411.0030), needs no state that a replacement worker
would lack, and survives small numeric differences between machines best: a draw only flips when
two candidates were all but tied.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.wire.messages import Sampling

CANDIDATES = 256
"""Tokens considered for sampling, the likeliest first. Bounds the cost of a large vocabulary."""

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as signed int64


def sample(logits: Tensor, params: Sequence[Sampling], positions: Sequence[int]) -> list[int]:
    """The next token of each row. `logits` is float [rows, vocab_size].

    `positions` are those the new tokens will take. Nucleus sampling as in arXiv:1904.09751.
    """
    rows = logits.float()
    likeliest = rows.argmax(-1)
    if all(_is_greedy(p) for p in params):
        return likeliest.tolist()
    top, ids = rows.topk(min(CANDIDATES, rows.shape[-1]))
    device = rows.device
    temperature = torch.tensor([p.temperature or 1.0 for p in params], device=device)[:, None]
    top_p = torch.tensor([p.top_p for p in params], device=device)[:, None]
    log_p = top / temperature - (rows / temperature).logsumexp(-1, keepdim=True)
    p = log_p.exp()
    # a candidate stays while those before it have not yet filled the nucleus; the first always
    keep = p.cumsum(-1) - p < top_p
    keep[:, 0] = True
    seeds = torch.tensor([p.seed for p in params], device=device)
    noise = gumbel(seeds, torch.tensor(positions, device=device), ids)
    scores = torch.where(keep, log_p.double() + noise, -torch.inf)
    greedy = torch.tensor([_is_greedy(p) for p in params], device=device)
    drawn = ids.gather(1, scores.argmax(-1, keepdim=True))[:, 0]
    # not ids[:, 0]: of equal logits, argmax and topk may prefer different ones
    return torch.where(greedy, likeliest, drawn).tolist()


def gumbel(seeds: Tensor, positions: Tensor, token_ids: Tensor) -> Tensor:
    """Standard Gumbel noise, float64 [rows, candidates], the same bits on every device.

    `seeds` and `positions` are int64 [rows], `token_ids` int64 [rows, candidates].
    """
    keys = _mix(_mix(seeds * _GOLDEN + 0x1234567) + positions)[:, None]
    bits = (_mix(keys + token_ids * _GOLDEN) >> 40) & 0xFFFFFF
    uniform = (bits.double() + 0.5) / (1 << 24)
    return -torch.log(-torch.log(uniform))


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 in wrapping int64; `>>` is arithmetic, hence the masks.

    https://prng.di.unimi.it/splitmix64.c
    """
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _is_greedy(params: Sampling) -> bool:
    return params.temperature == 0 or params.top_p == 0
