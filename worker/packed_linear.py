"""Linear layers whose weights lie as oneDNN's kernels read them, on CPU.

Plain `F.linear` hands float32 to MKL, which is slow on AMD, and bfloat16 to oneDNN in an order
that it does not like. The operators are those of torch's own compiler when it freezes weights
(torch/_inductor/fx_passes/mkldnn_fusion.py); as they are internal, packing_probe.py tries them
before they are used.
"""

from collections import Counter
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from worker.mapped_memory import forget, is_mapped, trim

ROWS = 16
"""For so many rows weights are laid out; layouts for 1 and for 512 measured no faster there."""
DTYPES = (torch.float32, torch.bfloat16)

_onednn: Any = torch.ops.mkldnn


class PackedLinear(nn.Module):
    """What `nn.Linear` computes. Code that reads the elements of its weight fails."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        packed = _onednn._reorder_linear_weight(weight.detach(), ROWS)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = bias
        self._multiply = _onednn._linear_pointwise.default

    def forward(self, input: Tensor) -> Tensor:
        return self._multiply(input, self.weight, self.bias, "none", [], "")


def pack(model: nn.Module) -> None:
    """Replace every plain `nn.Linear` of a CPU model, in place, freeing weights one by one.

    A head tied to the embedding is packed beside the plain rows where these are mapped from a
    file, as then only rows that are looked up take memory; elsewhere the table would stand in
    memory twice, and the head stays plain.
    """
    chosen = set(packable(model))
    packed: dict[nn.Module, PackedLinear] = {}
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if module in chosen and module not in packed:
                packed[module] = _replacement(module)
            if module in packed:
                setattr(parent, name, packed[module])
    trim()


@cache
def can_pack() -> bool:
    """Whether this build of torch has the operators."""
    try:
        PackedLinear(torch.ones(ROWS, ROWS), None)(torch.ones(1, ROWS))
    except (AttributeError, RuntimeError):
        return False
    return True


def packable(model: nn.Module) -> list[nn.Linear]:
    """The layers that `pack` replaces: never subclasses, as bitsandbytes' are."""
    modules = list(model.modules())
    holders = Counter(id(p) for module in modules for p in module.parameters(recurse=False))
    return [
        module
        for module in modules
        if type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype in DTYPES
        and (holders[id(module.weight)] == 1 or is_mapped(module.weight))
    ]


def is_packed(model: nn.Module) -> bool:
    """Whether `pack` has replaced anything."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def _replacement(linear: Any) -> PackedLinear:
    packed = PackedLinear(linear.weight, linear.bias)
    forget(linear.weight)
    linear.weight = None
    return packed
