"""The exceptions among transformers' families of causal language models, each with its reason.

A family that is not named here is served as the self-test finds it: batched when many sessions
can share a forward through our attention, alone when its blocks only run on a cache of their own.
"""

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["batched", "alone", "refused"]
"""Many sessions in one forward; one session at a time; not at all."""


@dataclass(frozen=True)
class Verdict:
    """How a family is served. `reason` says why it is not batched, "" when it is."""

    state: State
    reason: str = ""
    # whether many tokens may follow cached ones in one forward; else they run one by one
    continues: bool = True
    # whether its linear layers may be packed: not where its code reads their weights
    packs: bool = True


BATCHED = Verdict("batched")

_DECODER_HALF = "it is the decoder of an encoder-decoder model, no language model by itself"
_STREAMS = "its hidden states are several streams wide, and the wire carries one"
_EARLIER = "its blocks also read what blocks far before them made, not only the hidden states"
_MODULE_STATE = "it keeps a session's state in its modules, where sessions would mix"
_OWN_CACHE = "it runs on a cache of its own making only"
_PADDED = "it counts positions from its padding token on, not from 0"
_TOWERS = "its text model cannot be built without its towers for images or sound"

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            *("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart"),
            *("musicgen", "musicgen_melody", "mvp", "pegasus", "plbart", "prophetnet", "trocr"),
            "whisper",
        ),
        _DECODER_HALF,
    ),
    **dict.fromkeys(("deepseek_v4", "hy_v4", "qwen4_exp_text"), _STREAMS),
    **dict.fromkeys(("zamba", "zamba2", "inkling2_text"), _EARLIER),
    **dict.fromkeys(("minimax", "reformer", "rwkv", "xlstm", "xlnet"), _OWN_CACHE),
    **dict.fromkeys(("git", "phi4_multimodal"), _TOWERS),
    **dict.fromkeys(
        ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta"), _PADDED
    ),
    "xlm-roberta-xl": _PADDED,
    "xmod": "its forward needs to be told the language of the text",
    "blt": "it cuts bytes into patches by a second model; there is no line of blocks",
    "cpmant": "its forward takes token ids only, never the hidden states of a span before",
    "gemma3n_text": "its blocks read the token ids, which only the first span has",
    "gemma4_assistant": "it drafts for another model and reads that model's cache",
    "hrm_text": "its blocks run in cycles, not in a line",
    "longcat_flash": "its blocks hold two attentions each, and count as two in the cache",
    "moshi": "its decoding with a cache differs from its forward without one",
    "openai-gpt": "it has no cache, so every token would cost a whole prefill",
    "recurrent_gemma": _MODULE_STATE,
    "xlm": "it has no list of blocks to cut, only lists of their parts",
    "zaya": "its blocks hand each other router states beside the hidden states",
}
"""Model types that are refused untried, and why."""


def refusal(config: Any) -> str:
    """Why this config is refused whatever the self-test would say; "" when it is not."""
    if config.model_type in REFUSED:
        return REFUSED[config.model_type]
    if getattr(config, "hidden_size_per_layer_input", 0):
        return "its blocks read the token ids, which only the first span has"
    if "shared" in (getattr(config, "indexer_types", None) or ()):
        return "some of its blocks attend to the keys an earlier block chose, across spans"
    if getattr(config, "num_kv_shared_layers", 0):
        return "its later blocks attend to keys and values of earlier ones, across spans"
    return ""


_GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0625,
    "logits_scaling": 8.0,
}

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_ROPES = {"full_attention": _ROPE, "sliding_attention": _ROPE}
_CONV = ["conv", "conv", "full_attention", "conv", "full_attention", "full_attention"]
_LINEAR = [kind.replace("conv", "linear_attention") for kind in _CONV]
_INDEXER = {
    "num_key_value_heads": 4,
    "index_n_heads": 16,
    "index_head_dim": 16,
    "index_topk": 8,
}

TINY: dict[str, dict[str, Any]] = {
    # heads must equal key and value heads; indexers that choose fewer keys than there are
    "axk2": _INDEXER,
    "deepseek_v32": _INDEXER,
    "glm_moe_dsa": _INDEXER,
    # settings nested in their own configs
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "mpt": {"attn_config": {"alibi": True}},
    # factors that do something
    "granite": _GRANITE,
    "granitemoe": _GRANITE,
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16},
    # lists of a length that follows from the number of blocks
    "gpt_neo": {
        "attention_types": [[["global", "local"], 3]],
        "window_size": 8,
    },
    "llama4_text": {
        "no_rope_layers": [1, 1, 1, 0, 1, 1],
        "attention_chunk_size": 8,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 96,
    },
    "jamba": {
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "bamba": {"attn_layer_indices": [2, 5]},
    # sizes under names of their own
    "kimi_linear": {"linear_num_heads": 4, "linear_head_dim": 16},
    "dots3_note_text": {**_INDEXER, "swa_q_lora_rank": 32, "swa_kv_lora_rank": 16},
    "rembert": {"input_embedding_size": 64, "output_embedding_size": 64},
    "mamba": {"num_heads": None},
    "falcon_mamba": {"num_heads": None},
    "mamba2": {"head_dim": 32, "num_heads": 4, "expand": 2},
    "roc_bert": {"pronunciation_embed_dim": 16, "shape_embed_dim": 16, "shape_vocab_size": 64},
    # kinds of blocks that a config without values does not name
    "lfm2": {"layer_types": _CONV},
    "lfm2_moe": {"layer_types": _CONV, "num_dense_layers": 2},
    "granitemoehybrid": {"layer_types": _LINEAR, "position_embedding_type": "rope"},
    "cohere_compass_text": {"rope_parameters": _ROPES},
    # without what its blocks would need token ids for
    "gemma4_text": {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
}
"""Settings of the self-test's tiny configs that `shrink` cannot guess."""
