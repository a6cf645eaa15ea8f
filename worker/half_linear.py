"""Linear layers whose weights lie in memory as float16 and are multiplied in float32, on CPU.

Checkpoints come in bfloat16 or float16, which most processors cannot multiply: as float32 their
weights take twice the memory, and twice the time of a decode step, which is that of reading them.
FBGEMM's kernels read float16, compute in float32, and lose nothing of such a checkpoint. The
operators are those of torch's dynamic quantization
(aten/src/ATen/native/quantized/cpu/qlinear_dynamic.cpp); packing_probe.py tries them.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST_EXPONENT = 14
"""Weights are scaled to lie under 2**14, a quarter of what float16 goes to."""
_MOST_DOUBLINGS = 100
"""So that no scaled element or sum of products leaves float32."""
_LOST_AT_MOST = 2.0**-24
"""As a share of the largest weight: half of what float32 tells apart there."""
_SLICE_ELEMENTS = 1 << 22

_fbgemm: Any = torch.ops.quantized


class HalfLinear(nn.Module):
    """What `nn.Linear` computes in float32. Code that reads its weight fails: that is empty."""

    itemsize = 2
    said = "weights packed as float16, as exact as the checkpoint's"

    @staticmethod
    def holds(weight: Tensor) -> bool:
        """Whether no element of the weight changes by more than float32 would notice.

        So it is for finite numbers of 16 bits: those of bfloat16 have fewer digits than float16,
        and the scale leaves room for all down to 2**-31 of the largest.
        """
        weight = weight.detach()
        scale = _scale(weight)
        if not math.isfinite(scale) or weight.dtype != torch.float32:
            return math.isfinite(scale)
        most = _LOST_AT_MOST * scale * float(weight.abs().max())
        rows = max(1, _SLICE_ELEMENTS // max(1, weight.shape[1]))
        return all(_lost(part.float() * scale) <= most for part in weight.split(rows))

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # for code that asks its dtype and device
        self.weight = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
        weight = weight.detach()
        scale = _scale(weight)
        self._unscale = 1 / scale
        scaled_bias = None if bias is None else bias.detach().float() * scale
        self._packed = _fbgemm.linear_prepack_fp16(weight.float() * scale, scaled_bias)
        self._multiply = _fbgemm.linear_dynamic_fp16.default

    @property
    def packed_bytes(self) -> int:
        """Memory that parameters do not tell of."""
        return self.itemsize * self.in_features * self.out_features

    def forward(self, input: Tensor) -> Tensor:
        return self._multiply(input.float(), self._packed).mul_(self._unscale).to(input.dtype)


def _scale(weight: Tensor) -> float:
    """The power of two that brings the weight's largest element just under 2**14; or NaN.

    bfloat16 reaches far below float16, whose small numbers have fewer digits.
    """
    largest = float(weight.abs().max())
    if not math.isfinite(largest):
        return math.nan
    return 2.0 ** min(_LARGEST_EXPONENT - math.frexp(largest)[1], _MOST_DOUBLINGS)


def _lost(weight: Tensor) -> float:
    return float((weight.half().float() - weight).abs().max())
