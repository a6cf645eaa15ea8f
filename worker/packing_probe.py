"""Tries packed weights on this machine: do they give what plain ones do, in less time?"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.packed_linear import ROWS, PackedLinear, packable

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
def packing_helps(model: nn.Module) -> bool:
    """Whether packed weights are as good as plain ones for one row and for many.

    Measured on weights of the model that are of middling size: a block's, not the head's.
    """
    by_size = sorted((linear.weight for linear in packable(model)), key=Tensor.numel)
    weights = _up_to(PROBED_BYTES, by_size[len(by_size) // 2 :])
    try:
        packed = [PackedLinear(weight, None) for weight in weights]
        return bool(weights) and all(_are_as_good(packed, weights, n) for n in PROBED_ROWS)
    except (AttributeError, RuntimeError):  # no such operators here, or not for this dtype
        return False


def _are_as_good(packed: Sequence[_Multiply], weights: Sequence[Tensor], rows: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(rows, w.shape[1], generator=generator).to(w.dtype) for w in weights]
    plain: list[_Multiply] = [partial(F.linear, weight=weight) for weight in weights]
    if not all(map(_agree, packed, plain, inputs)):
        return False
    pairs = [(_seconds(packed, inputs), _seconds(plain, inputs)) for _ in range(ROUNDS)]
    ours, theirs = map(min, zip(*pairs, strict=True))
    return ours <= SLOWER_AT_MOST * theirs


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
