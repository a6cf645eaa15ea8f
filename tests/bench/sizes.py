"""The random llamas that benchmarks measure, by name."""

from pathlib import Path

import torch

from tests.models import build, save

HALF_BILLION = "0.5B, 26 blocks of 1280"
THIRD_BILLION = "0.3B, 24 blocks of 1024"

SIZES = {
    "8M, 8 blocks of 256": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
    },
    THIRD_BILLION: {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
    HALF_BILLION: {
        "hidden_size": 1280,
        "intermediate_size": 3840,
        "num_hidden_layers": 26,
        "num_attention_heads": 20,
        "num_key_value_heads": 10,
        "head_dim": 64,
    },
}
MAX_POSITIONS = 4096


def saved(size: str, dtype: str, home: Path) -> Path:
    """A model of this size on disk, in this dtype, under the name `bench`."""
    model = build("llama", max_position_embeddings=MAX_POSITIONS, **SIZES[size])
    return save(model.to(getattr(torch, dtype)), home / "bench", shard="2GB")
