"""Experts of mixture models as layers whose weights are float16, a layer each, on CPU.

transformers keeps a block's experts in one tensor a projection and lets us say, by name, what
multiplies them (transformers/integrations/moe.py, whose flags tell how the tensors lie).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from worker.half_linear import HalfLinear
from worker.mapped_memory import forget

NAME = "brigade_packed"
_PROJECTIONS = ("gate_up_proj", "up_proj", "down_proj")


def projections(module: nn.Module) -> dict[str, nn.Parameter]:
    """The tensors of a module's experts, by name, if it lets us multiply them; else none."""
    if not hasattr(module, "_is_expert_parallel"):
        return {}
    found = {name: getattr(module, name, None) for name in _PROJECTIONS}
    return {name: it for name, it in found.items() if isinstance(it, nn.Parameter) and it.ndim == 3}


def pack_experts(model: nn.Module, dtype: torch.dtype) -> None:
    """Pack all experts of a CPU model, in place, one by one; none if float16 cannot hold some."""
    modules = [module for module in model.modules() if projections(module)]
    tensors = [tensor for module in modules for tensor in projections(module).values()]
    if not all(HalfLinear.holds(tensor.flatten(0, 1)) for tensor in tensors):
        return
    for module in modules:
        for name in projections(module):
            _pack(module, name, dtype)
        settings: Any = module.config
        settings._experts_implementation = NAME


def _pack(module: Any, name: str, dtype: torch.dtype) -> None:
    weight = getattr(module, name).detach()
    biases = getattr(module, f"{name}_bias", None)
    layers = [
        HalfLinear(
            expert.T if module.is_transposed else expert,
            None if biases is None else biases[number],
            dtype,
        )
        for number, expert in enumerate(weight)
    ]
    forget(weight)
    setattr(module, name, None)
    module.add_module(f"packed_{name}", nn.ModuleList(layers))


def _run(module: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """As transformers' own: [tokens, hidden_size]; which experts [tokens, k] and their shares."""
    up = module.packed_gate_up_proj if module.has_gate else module.packed_up_proj
    by_expert, order = top_k_index.flatten().sort()
    experts, counts = by_expert.unique_consecutive(return_counts=True)
    rows = hidden[order // top_k_index.shape[-1]].split(counts.tolist())
    made = torch.cat(
        [
            module.packed_down_proj[expert](_between(module, up[expert](inputs)))
            for expert, inputs in zip(experts.tolist(), rows, strict=True)
        ]
    )
    if module.has_post_expert_norm:
        made = module.post_expert_norm(made)
    in_order = torch.empty_like(made)
    in_order[order] = made
    shared = in_order.unflatten(0, top_k_index.shape) * top_k_weights.unsqueeze(-1)
    return shared.sum(1).to(hidden.dtype)


def _between(module: Any, projected: Tensor) -> Tensor:
    return module._apply_gate(projected) if module.has_gate else module.act_fn(projected)


ALL_EXPERTS_FUNCTIONS.register(NAME, _run)
