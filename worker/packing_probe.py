"""Tries packed weights on this machine: which give what plain ones do, in the least time?"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.packed_linear import ROWS
from worker.packing import DTYPES, PACKINGS, Packing, packable

PROBED_ROWS = (1, ROWS)
PROBED_BYTES = 64 << 20
"""More than caches hold, as a decode step reads its weights from memory."""
ROUNDS = 5
SLOWER_AT_MOST = 1.1
"""How much slower than plain the probe may measure, as two runs of one kernel differ."""
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Largest difference from plain weights by dtype, as a share of the largest output."""

_Multiply = Callable[[Tensor], Tensor]


@torch.inference_mode()
def best_packing(model: nn.Module, dtype: torch.dtype) -> Packing | None:
    """The packing that is fastest for one row and for many; None where plain weights are.

    Measured on weights of the model that are of middling size: a block's, not the head's.
    """
    weights = sorted((linear.weight for linear in packable(model)), key=Tensor.numel)
    if not weights or dtype not in DTYPES:
        return None
    probed = _up_to(PROBED_BYTES, weights[len(weights) // 2 :])
    costs = {packing: _cost(packing, probed, dtype) for packing in PACKINGS}
    best = min(costs, key=lambda packing: costs[packing])
    return best if costs[best] < float("inf") else None


def _cost(packing: Packing, weights: Sequence[Tensor], dtype: torch.dtype) -> float:
    """Seconds as shares of what plain weights take, for one row and many; or infinity."""
    if not all(map(packing.holds, weights)):
        return float("inf")
    try:
        packed = [packing(weight, None, dtype) for weight in weights]
        shares = [_share(packed, weights, dtype, rows) for rows in PROBED_ROWS]
    except (AttributeError, RuntimeError):  # no such operators here, or not for this dtype
        return float("inf")
    return sum(shares) if max(shares) <= SLOWER_AT_MOST else float("inf")


def _share(
    packed: Sequence[_Multiply], weights: Sequence[Tensor], dtype: torch.dtype, rows: int
) -> float:
    """How long packed weights take for each second of plain ones; infinity if numbers differ."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(rows, w.shape[1], generator=generator).to(dtype) for w in weights]
    plain: list[_Multiply] = [partial(F.linear, weight=weight.to(dtype)) for weight in weights]
    if not all(map(_agree, packed, plain, inputs)):
        return float("inf")
    pairs = [(_seconds(packed, inputs), _seconds(plain, inputs)) for _ in range(ROUNDS)]
    ours, theirs = map(min, zip(*pairs, strict=True))
    return ours / theirs


def _agree(packed: _Multiply, plain: _Multiply, inputs: Tensor) -> bool:
    expected = plain(inputs).float()
    error = (packed(inputs).float() - expected).abs().max()
    return bool(error <= TOLERANCES[inputs.dtype] * expected.abs().max())


def _seconds(multiply: Sequence[_Multiply], inputs: Sequence[Tensor]) -> float:
    """Processor time, as a machine where a whole swarm is starting is a busy one."""
    started = time.process_time()
    for each, rows in zip(multiply, inputs, strict=True):
        each(rows)
    return time.process_time() - started


def _up_to(num_bytes: int, weights: Sequence[Tensor]) -> list[Tensor]:
    """The first of them that together take so much memory."""
    taken: list[Tensor] = []
    while len(taken) < len(weights) and sum(w.nbytes for w in taken) < num_bytes:
        taken.append(weights[len(taken)])
    return taken
