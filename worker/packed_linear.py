"""Linear layers whose weights lie as oneDNN's kernels read them, on CPU.

Plain `F.linear` hands float32 to MKL, which is slow on AMD, and bfloat16 to oneDNN in an order
that it does not like. The operators are those of torch's own compiler when it freezes weights
(torch/_inductor/fx_passes/mkldnn_fusion.py); as they are internal, packing_probe.py tries them
before they are used.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 16
"""For so many rows weights are laid out; layouts for 1 and for 512 measured no faster there."""

_onednn: Any = torch.ops.mkldnn


class PackedLinear(nn.Module):
    """What `nn.Linear` computes. Code that reads the elements of its weight fails."""

    said = "packed weights"

    @staticmethod
    def holds(weight: Tensor) -> bool:
        """Whether it can stand for such a weight: for any."""
        return True

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        packed = _onednn._reorder_linear_weight(weight.detach().to(dtype), ROWS)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = bias
        self._multiply = _onednn._linear_pointwise.default

    def forward(self, input: Tensor) -> Tensor:
        return self._multiply(input, self.weight, self.bias, "none", [], "")
