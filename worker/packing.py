"""Puts linear layers that a processor computes faster in the place of plain ones, on CPU."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from worker.half_linear import HalfLinear
from worker.mapped_memory import forget, is_mapped, trim
from worker.packed_experts import pack_experts
from worker.packed_linear import ROWS, PackedLinear

Packing = type[HalfLinear] | type[PackedLinear]

PACKINGS: tuple[Packing, ...] = (HalfLinear, PackedLinear)
DTYPES = (torch.float32, torch.bfloat16)
"""What packed layers compute in."""
_STORED = (*DTYPES, torch.float16)


def pack(model: nn.Module, packing: Packing, dtype: torch.dtype) -> None:
    """Replace every plain `nn.Linear` of a CPU model, in place, freeing weights one by one.

    A head tied to the embedding is packed beside the plain rows where these are mapped from a
    file, as then only rows that are looked up take memory; elsewhere the table would stand in
    memory twice, and the head stays plain. So does a layer whose weight the packing cannot hold.
    """
    chosen = [layer for layer in packable(model) if packing.holds(layer.weight)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # FBGEMM packs 0.1 GB a second alone
        made = pool.map(partial(_replacement, packing=packing, dtype=dtype), chosen)
    packed = dict[nn.Module, nn.Module](zip(chosen, made, strict=True))
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if module in packed:
                setattr(parent, name, packed[module])
    if packing is HalfLinear:
        pack_experts(model, dtype)
    trim()


def widen_rows(table: nn.Embedding, dtype: torch.dtype) -> None:
    """Leave a table as it is stored, in its file if it is mapped, and convert rows on the way out.

    It is a parameter no more, as a model goes by its first parameter's dtype.
    """
    weight = table.weight.detach()
    del table.weight
    table.register_buffer("weight", weight, persistent=False)
    table.register_forward_hook(lambda module, inputs, rows: rows.to(dtype))


@cache
def can_pack(packing: Packing) -> bool:
    """Whether this build of torch has the operators, and this processor what they need."""
    try:
        layer = packing(torch.ones(ROWS, ROWS), None, torch.float32)
        layer(torch.ones(1, ROWS))
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
        and module.weight.dtype in _STORED
        and (holders[id(module.weight)] == 1 or is_mapped(module.weight))
    ]


def packing_of(model: nn.Module) -> Packing | None:
    """What plain layers have been replaced by; None where they have not."""
    found = {type(module) for module in model.modules()}
    return next((packing for packing in PACKINGS if packing in found), None)


def _replacement(linear: Any, packing: Packing, dtype: torch.dtype) -> nn.Module:
    packed = packing(linear.weight, linear.bias, dtype)
    forget(linear.weight)
    linear.weight = None
    return packed
