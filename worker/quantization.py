"""What bitsandbytes makes of a span's weights: int8 (arXiv:2208.07339) or nf4 (arXiv:2305.14314).

transformers' loader quantizes tensor by tensor as it reads, on CPU and CUDA alike, so that the
span never stands in memory in full. Only `nn.Linear` inside blocks is quantized: embedding, head
and fused experts stay as they are.
"""

import importlib
import logging
import re
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from shared.errors import ModelError
from worker.settings import Quant

IN_MULTIPLE, OUT_MULTIPLE = 64, 32
"""Widths that the CPU kernels take: nf4 crashes at 96 inputs, and wants 32 outputs or more."""

_OF_A_WEIGHT = re.compile(r"\.(weight\.[\w.]+|SCB|weight_format)$")


def settings_for(
    quant: Quant, config: PretrainedConfig, skeleton: PreTrainedModel, dtype: torch.dtype | None
) -> BitsAndBytesConfig | None:
    """What to tell transformers' loader; None to load the checkpoint as it is.

    Raises ModelError for a checkpoint that is quantized in a way that is not supported.
    """
    done = done_before(config)
    if done and done != "bitsandbytes":
        raise ModelError(
            f"the checkpoint is quantized with {done}, which is not served; choose one"
            " that is not quantized, or by bitsandbytes"
        )
    if done or quant != "none":
        _import_bitsandbytes()
    if quant == "none":
        return None
    if done:
        raise ModelError(f"the checkpoint is quantized already; leave out --quant {quant}")
    skipped = _unfit(skeleton)
    if quant == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype or config.dtype or torch.float32,
        llm_int8_skip_modules=skipped,
    )


def owner(key: str) -> str:
    """The weight a checkpoint's key belongs to: itself, or the one it helps to dequantize."""
    return _OF_A_WEIGHT.sub(".weight", key)


def weight_bytes(model: nn.Module) -> int:
    """Memory of all weights, with what belongs to quantized ones and what is packed."""
    parameters = sum(p.nbytes + sum(t.nbytes for t in _belongings(p)) for p in model.parameters())
    return parameters + sum(getattr(module, "packed_bytes", 0) for module in model.modules())


def _import_bitsandbytes() -> None:
    """Import it without `kernels`: with that package it would fetch native code and run it."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of every cast
    sys.modules["kernels"] = None  # type: ignore[assignment]
    importlib.import_module("bitsandbytes")


def _belongings(parameter: Any) -> list[Tensor]:
    state = getattr(parameter, "quant_state", None)
    found = [state.absmax, state.code] if state is not None else []
    scales = getattr(parameter, "SCB", None)
    return found if scales is None else [*found, scales]


def _unfit(skeleton: PreTrainedModel) -> list[str]:
    """The linear modules to leave alone, as patterns of their full names."""
    head = skeleton.get_output_embeddings()
    return [
        re.escape(name) + "$"
        for name, module in skeleton.named_modules()
        if isinstance(module, nn.Linear)
        and (
            module is head or module.in_features % IN_MULTIPLE or module.out_features % OUT_MULTIPLE
        )
    ]


def done_before(config: PretrainedConfig) -> str:
    """The method that a checkpoint was quantized with; empty when it was not."""
    settings: Any = getattr(config, "quantization_config", None)
    if settings is None:
        return ""
    if not isinstance(settings, dict):
        settings = settings.to_dict()
    return str(settings.get("quant_method") or "bitsandbytes")
