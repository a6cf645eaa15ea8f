"""Linear layers whose weights lie in memory as float16 and are multiplied in float32, on CPU.

Checkpoints come in bfloat16 or float16, which most processors cannot multiply: as float32 their
weights take twice the memory, and twice the time of a decode step, which is that of reading them.
FBGEMM's kernels read float16, compute in float32, and lose nothing of such a checkpoint. torch has
two ways to them (aten/src/ATen/native/QuantizedLinear.cpp, and quantized/cpu/qlinear_dynamic.cpp
beside it); packing_probe.py tries them before they are used.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST_EXPONENT, _LEAST_EXPONENT = 14, -3
"""A weight whose largest element lies between 2**-4 and 2**14 is taken as it is: what float16 loses
below 2**-14 is then little. Others are scaled to lie just under 2**14."""
_MOST_DOUBLINGS = 100
"""So that no scaled element or sum of products leaves float32."""
_LOST_AT_MOST = 2.0**-21
"""As a share of the largest weight; where float32 adds a thousand products it loses more."""
_SLICE_ELEMENTS = 1 << 22
_TILE = (512, 16)
"""Inputs and outputs of a tile (measured: 1,280 inputs take as much memory as 1,536)."""

Pack = Callable[[Tensor], Any]
Multiply = Callable[[Tensor, Any, Tensor | None], Tensor]


def _quick_kernels() -> tuple[Pack, Multiply]:
    """Take 3 microseconds a call where the others take 20, but torch means to remove them."""
    pack: Any = torch.fbgemm_pack_gemm_matrix_fp16
    multiply: Any = torch.fbgemm_linear_fp16_weight_fp32_activation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each warns when it is first called
        multiply(torch.ones(1, 16), pack(torch.ones(16, 16)), None)
    return pack, multiply


def _lasting_kernels() -> tuple[Pack, Multiply]:
    def pack(weight: Tensor) -> Any:
        return torch.ops.quantized.linear_prepack_fp16(weight, None)

    def multiply(input: Tensor, packed: Any, bias: Tensor | None) -> Tensor:
        product = torch.ops.quantized.linear_dynamic_fp16(input, packed)
        return product if bias is None else product.add_(bias)

    return pack, multiply


def _kernels() -> tuple[Pack, Multiply]:
    try:
        return _quick_kernels()
    except (AttributeError, TypeError, RuntimeError):
        return _lasting_kernels()


_pack, _multiply = _kernels()


class HalfLinear(nn.Module):
    """What `nn.Linear` computes in float32. Code that reads its weight fails: that is empty."""

    itemsize = 2
    said = "weights packed as float16, as exact as the checkpoint's"

    @staticmethod
    def holds(weight: Tensor) -> bool:
        """Whether no element of the weight changes by more than float32 would notice.

        So it is for finite numbers of 16 bits: those of bfloat16 have fewer digits than float16,
        and the scale leaves room for the small ones.
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
        self._bias = None if bias is None else bias.detach().float() * scale
        self._packed = _pack(weight.float() if scale == 1 else weight.float() * scale)

    @property
    def packed_bytes(self) -> int:
        """Memory that parameters do not tell of: FBGEMM pads what it packs to whole tiles."""
        rows, columns = _TILE
        padded = -(-self.in_features // rows) * rows * -(-self.out_features // columns) * columns
        return self.itemsize * padded

    def forward(self, input: Tensor) -> Tensor:
        product = _multiply(input.float(), self._packed, self._bias)
        if self._unscale != 1:
            product.mul_(self._unscale)
        return product.to(input.dtype)


def _scale(weight: Tensor) -> float:
    """The power of two that a weight is packed times; NaN where it has elements that are no number.

    bfloat16 reaches far below float16, whose small numbers have fewer digits.
    """
    largest = float(weight.abs().max())
    if not math.isfinite(largest):
        return math.nan
    exponent = math.frexp(largest)[1]
    if _LEAST_EXPONENT <= exponent <= _LARGEST_EXPONENT:
        return 1.0
    return 2.0 ** min(_LARGEST_EXPONENT - exponent, _MOST_DOUBLINGS)


def _lost(weight: Tensor) -> float:
    return float((weight.half().float() - weight).abs().max())
