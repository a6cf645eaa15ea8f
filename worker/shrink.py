"""A tiny config of any family: its real structure at sizes that run in milliseconds. Pure."""

from inspect import get_annotations
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from worker.families import TINY

NUM_BLOCKS = 6

_SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": NUM_BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # what gpt2 and others of its age call the same
    "n_embd": 64,
    "n_layer": NUM_BLOCKS,
    "n_head": 4,
    "n_positions": 512,
    "n_inner": 96,
    "d_model": 64,
    "n_layers": NUM_BLOCKS,
    "n_heads": 4,
    "max_seq_len": 512,
    "num_layers": NUM_BLOCKS,
    "ffn_dim": 96,
    "decoder_layers": NUM_BLOCKS,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "word_embed_proj_dim": 64,
    "attention_heads": 4,
    "ffn_hidden_size": 96,
    "rotary_dim": 8,
    "embedding_size": 64,
    "num_heads": 4,
    "head_size": 16,
    # experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_topk": 2,
    "first_k_dense_replace": 1,
    # latent attention
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    # windows, shorter than the prompts of the self-test
    "sliding_window": 8,
    "attention_window_size": 8,
    # state space and linear attention
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_ssm": 128,
    "mamba_n_groups": 1,
    "mamba_dt_rank": 8,
    "mamba_chunk_size": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 32,
    "state_size": 8,
    "chunk_size": 16,
    "n_groups": 1,
    "lru_width": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 160,
    "laurel_rank": 8,
    # families born as encoders are causal only when told so
    "is_decoder": True,
}
"""Every name under which some family keeps a size; a config gets those it declares."""


def tiny_config(model_type: str, like: PretrainedConfig | None = None) -> PretrainedConfig:
    """The family's tiny config, with the switches of the real config `like` where given.

    Raises whatever the config's class raises when the sizes do not fit it.
    """
    config_class: Any = CONFIG_MAPPING[model_type]
    declared = _declared(config_class)
    renamed: dict[str, str] = getattr(config_class, "attribute_map", None) or {}
    values = {
        name: size
        for name, size in _SIZES.items()
        if name in declared and renamed.get(name) not in declared
    }
    kinds = _kinds_of_blocks(like if like is not None else config_class())
    name = renamed.get("layer_types", "layer_types")
    if kinds and name in declared:
        values[name] = kinds
    switches = _switches(like, declared) if like is not None else {}
    values |= TINY.get(model_type, {}) | switches
    return config_class(**values)


def _kinds_of_blocks(config: PretrainedConfig) -> list[str]:
    """Every kind of block of a real config, in an order that gives spans with and without each."""
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or ()))
    if not kinds:
        return []
    first, second, third, *_ = kinds * 3
    return [first, first, second, third, second, kinds[-1]]


def _declared(config_class: type) -> set[str]:
    """The settings a family's own config class declares."""
    names: set[str] = set()
    for base in config_class.__mro__:
        if issubclass(base, PretrainedConfig) and base is not PretrainedConfig:
            names |= set(get_annotations(base))
    return names


def _switches(config: PretrainedConfig, declared: set[str]) -> dict[str, Any]:
    """What chooses between variants of a family: its booleans and names, and a missing window."""
    switches: dict[str, Any] = {
        name: value
        for name in declared
        if isinstance(value := getattr(config, name, None), bool | str)
    }
    if "sliding_window" in declared and getattr(config, "sliding_window", None) is None:
        switches["sliding_window"] = None
    return switches
