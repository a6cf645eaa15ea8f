"""Weights in bitsandbytes' formats: less memory, nearly the same choices."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from shared.errors import ModelError
from shared.model_files import BUNDLED
from shared.swarm import Span
from tests.bench.quality import SPANS, answers, conversations, load, quality
from tests.models import build, save
from worker.quantization import owner
from worker.settings import Quant
from worker.weights import load_span

WHOLE = Span(0, 8)
CPU = torch.device("cpu")


def logits(quant: Quant, spans: tuple[Span, ...]) -> torch.Tensor:
    return torch.cat(answers(load(quant, spans), conversations(4), int8=False))


# Measured with 40 conversations: int8 99.9 % of choices and 1.1 % logit error, nf4 99.8 % and
# 5.8 %; perplexity within 0.0002 of the model's own.
@pytest.mark.parametrize(
    ("quant", "same_choice", "logit_error", "size"),
    [("int8", 0.99, 0.02, 0.60), ("nf4", 0.98, 0.10, 0.40)],
)
def test_quantized_weights_are_smaller_and_choose_nearly_the_same_tokens(
    quant: Quant, same_choice: float, logit_error: float, size: float
):
    talks = conversations(10)
    plain, quantized = load("none"), load(quant)
    expected = answers(plain, talks, int8=False)
    found = quality(answers(quantized, talks, int8=False), expected, talks)
    assert found.same_choice >= same_choice
    assert found.logit_error <= logit_error
    assert found.perplexity <= 1.05 * quality(expected, expected, talks).perplexity
    bytes_before = sum(model.weight_bytes for model in plain)
    assert sum(model.weight_bytes for model in quantized) <= size * bytes_before


@pytest.mark.parametrize("quant", ["int8", "nf4"])
def test_quantized_spans_in_a_row_equal_the_quantized_whole(quant: Quant):
    assert torch.equal(logits(quant, SPANS), logits(quant, (WHOLE,)))


@pytest.mark.parametrize("quant", ["int8", "nf4"])
def test_checkpoints_that_are_quantized_load_as_they_are(quant: Quant, tmp_path: Path):
    how = BitsAndBytesConfig(
        load_in_8bit=quant == "int8", load_in_4bit=quant == "nf4", bnb_4bit_quant_type="nf4"
    )
    model = AutoModelForCausalLM.from_pretrained(
        BUNDLED, quantization_config=how, device_map={"": CPU}
    )
    model.save_pretrained(tmp_path, max_shard_size="500KB")
    for span in SPANS:
        found = load_span(tmp_path, span, device=CPU)
        expected = load_span(BUNDLED, span, quant=quant, device=CPU)
        assert found.weight_bytes == expected.weight_bytes
        assert states_equal(found._model, expected._model)
    with pytest.raises(ModelError, match="quantized already; leave out --quant nf4"):
        load_span(tmp_path, WHOLE, quant="nf4", device=CPU)


def states_equal(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_layers_that_the_kernels_do_not_take_stay_as_they_are(tmp_path: Path):
    # 96 inputs: the down projection does not fit
    directory = save(build("llama"), tmp_path / "m")
    model = load_span(directory, Span(0, 6), quant="nf4", device=CPU)
    kinds = {name: type(module).__name__ for name, module in model._model.named_modules()}
    of_block = {name.rpartition(".")[2]: kind for name, kind in kinds.items() if ".2." in name}
    assert of_block["up_proj"] == of_block["q_proj"] == "Linear4bit"
    assert of_block["down_proj"] == kinds["lm_head"] == "Linear"


def test_other_ways_to_quantize_are_refused_by_name(tmp_path: Path):
    model = build("llama")
    model.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    directory = save(model, tmp_path / "m")
    with pytest.raises(ModelError, match="quantized with gptq, which is not served"):
        load_span(directory, Span(0, 6), device=CPU)


@pytest.mark.parametrize(
    "suffix",
    ["weight", "weight.absmax", "weight.quant_state.bitsandbytes__nf4", "SCB", "weight_format"],
)
def test_what_helps_to_dequantize_a_weight_goes_where_it_goes(suffix: str):
    assert owner(f"model.layers.1.mlp.up_proj.{suffix}") == "model.layers.1.mlp.up_proj.weight"


def test_other_keys_are_their_own():
    assert owner("model.layers.1.mlp.up_proj.bias") == "model.layers.1.mlp.up_proj.bias"
    assert owner("lm_head.weight") == "lm_head.weight"
