"""Gives bloom and falcon our attention, which their modules compute by themselves.

Both project queries, keys and values at once, a group of query heads beside each kv head, and
know positions from ALiBi (arXiv:2108.12409) or, in most falcons, from rotary embeddings.
"""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
from transformers.models.falcon.modeling_falcon import FalconAttention, apply_rotary_pos_emb

from worker.attention import attention


def install(model: PreTrainedModel) -> None:
    """Replace, in place, the attention of a model that ignores the attention interface."""
    adapters: dict[type, Any] = {BloomAttention: _bloom, FalconAttention: _falcon}
    modules: list[Any] = list(model.modules())
    for module in modules:
        if adapter := adapters.get(type(module)):
            module.forward = partial(adapter, module)


def _bloom(module: Any, hidden: Tensor, residual: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
    query, key, value = _project(module, hidden, kv_heads=module.num_heads)
    slopes = _slopes(module.num_heads, hidden.device)
    scaling = module.inv_norm_factor
    out, _ = attention(module, query, key, value, None, scaling, slopes=slopes)
    return module.dense(out.flatten(2)) + residual, None


def _falcon(
    module: Any,
    hidden: Tensor,
    alibi: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    query, key, value = _project(module, hidden, kv_heads=module.num_kv_heads)
    scaling, slopes = module.inv_norm_factor, None
    if alibi is not None:
        slopes = _slopes(module.num_heads, hidden.device, scaling)  # falcon scales the bias too
    else:
        assert position_embeddings is not None
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    out, _ = attention(module, query, key, value, None, scaling, slopes=slopes)
    return module.dense(out.flatten(2)), None


def _project(module: Any, hidden: Tensor, *, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query [1, heads, tokens, head_dim]; key and value [1, kv_heads, tokens, head_dim]."""
    fused = module.query_key_value(hidden)
    grouped = fused.unflatten(-1, (kv_heads, module.num_heads // kv_heads + 2, module.head_dim))
    query = grouped[..., :-2, :].flatten(2, 3)
    key, value = grouped[..., -2, :], grouped[..., -1, :]
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


@cache
def _slopes(heads: int, device: torch.device, scaling: float = 1.0) -> Tensor:
    """How fast each head's attention fades with distance: [heads]."""
    two_tokens = torch.ones(1, 2, dtype=torch.long, device=device)
    return build_alibi_tensor(two_tokens, heads, torch.float32)[:, 0, 1] * scaling
