"""Small random models of real architectures, on disk, with the bundled model's tokenizer."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from shared.model_files import BUNDLED

NUM_BLOCKS = 6
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": NUM_BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
_EXTRA: dict[str, dict[str, object]] = {
    "mistral": {"sliding_window": 24},
    "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 24, "query_pre_attn_scalar": 16},
}


def build(family: str, *, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A random float32 model whose outputs vary enough that a mistake shows."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    config = CONFIG_MAPPING[family](
        **{**_SIZES, **_EXTRA.get(family, {}), **overrides},
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def save(model: PreTrainedModel, directory: Path, *, shard: str = "60KB") -> Path:
    """Write a model and its tokenizer as a hub repository would hold them."""
    model.save_pretrained(directory, max_shard_size=shard)
    for name in _TOKENIZER_FILES:
        if (BUNDLED / name).exists():
            shutil.copy(BUNDLED / name, directory / name)
    return directory


def greedy_answer(model: PreTrainedModel, question: str, max_tokens: int) -> tuple[str, int]:
    """What transformers itself generates: the text and the number of tokens."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**prompt, max_new_tokens=max_tokens, do_sample=False)
    ids = output[0, prompt["input_ids"].shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True), len(ids)
