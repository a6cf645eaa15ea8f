"""Every family is served as it should be: spans in a row give the whole model's numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from shared.errors import ModelError, StepRefused
from shared.swarm import Span
from tests.models import build
from tests.models import save as save_whole
from worker.families import REFUSED, Verdict
from worker.kv_cache import Segment, Slab
from worker.models import Found, all_families
from worker.selftest import (
    LENGTHS,
    SPANS,
    judge,
    judge_family,
    random_model,
    try_spans,
)
from worker.shrink import NUM_BLOCKS, tiny_config
from worker.span_model import SpanModel
from worker.weights import load_span

BATCHED = [
    "llama",
    "mistral",
    "ministral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "opt",
    "bloom",
    "falcon",
    "olmo2",
    "olmo3",
    "olmoe",
    "granite",
    "granitemoe",
    "cohere",
    "cohere2",
    "glm4",
    "glm4_moe",
    "deepseek_v2",
    "deepseek_v3",
    "starcoder2",
    "stablelm",
    "smollm3",
    "ernie4_5",
    "exaone4",
    "seed_oss",
    "llama4_text",
    "dbrx",
    "minimax_m2",
    "nemotron",
    "persimmon",
    "gpt_bigcode",
    "phimoe",
    "gemma4_text",
]
ALONE = [
    "gptj",
    "codegen",
    "mpt",
    "gpt_neo",
    "diffllama",
    "doge",
    "xglm",
    "bamba",
    "falcon_h1",
    "granitemoehybrid",
    "nemotron_h",
    "mamba2",
    "qwen3_next",
    "qwen3_5_text",
    "lfm2",
    "olmo_hybrid",
    "deepseek_v32",
    "glm_moe_dsa",
]
TOKEN_BY_TOKEN = ["mamba", "falcon_mamba", "jamba", "kimi_linear"]
FALCONS = {
    "rotary, one kv head": {},
    "rotary, kv heads of their own": {"multi_query": False},
    "rotary, grouped": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "alibi": {"alibi": True, "parallel_attn": False},
    "alibi, grouped": {"alibi": True, "new_decoder_architecture": True, "num_kv_heads": 2},
}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from more, and neighbours lose."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", BATCHED)
def test_sessions_share_a_forward(family: str):
    assert judge_family(family) == Verdict("batched")


@pytest.mark.parametrize("family", ALONE)
def test_sessions_run_one_at_a_time(family: str):
    verdict = judge_family(family)
    assert (verdict.state, verdict.continues) == ("alone", True)


@pytest.mark.parametrize("family", TOKEN_BY_TOKEN)
def test_where_a_prefill_cannot_go_on_tokens_run_one_by_one(family: str):
    verdict = judge_family(family)
    assert (verdict.state, verdict.continues) == ("alone", False)


@pytest.mark.parametrize("variant", FALCONS)
def test_every_falcon_shares_a_forward(variant: str):
    config = tiny_config("falcon")
    config.update(FALCONS[variant])
    assert try_spans(config) == Verdict("batched")


@pytest.mark.parametrize("family", REFUSED)
def test_refusals_say_why(family: str):
    assert judge_family(family) == Verdict("refused", REFUSED[family])


@pytest.mark.parametrize("family", ["zamba", "inkling2_text", "recurrent_gemma"])
def test_the_refused_would_be_wrong_without_a_word(family: str):
    verdict = try_spans(tiny_config(family))
    assert "do not give the whole model's numbers" in verdict.reason


def test_a_variant_that_reads_token_ids_in_every_block_is_refused():
    config = CONFIG_MAPPING["gemma4_text"](hidden_size_per_layer_input=8)
    assert "read the token ids" in judge(config).reason


def test_the_switches_of_the_real_config_are_what_is_tried():
    config = CONFIG_MAPPING["falcon"](alibi=True, new_decoder_architecture=True)
    tiny: Any = tiny_config("falcon", config)
    assert (tiny.alibi, tiny.new_decoder_architecture, tiny.hidden_size) == (True, True, 64)
    assert judge(config).state == "batched"


def test_kinds_of_blocks_are_all_in_the_tiny_config():
    config = CONFIG_MAPPING["qwen2"](
        num_hidden_layers=4,
        layer_types=["sliding_attention", *["full_attention"] * 3],
        use_sliding_window=True,
    )
    tiny: Any = tiny_config("qwen2", config)
    assert set(tiny.layer_types) == {"sliding_attention", "full_attention"}


def test_a_vision_model_is_no_language_model():
    assert judge(CONFIG_MAPPING["vit"]()).reason == "it is no causal language model"


# the following load from disk


def save(config: PretrainedConfig, directory: Path) -> tuple[PreTrainedModel, Path]:
    torch.manual_seed(0)
    model = random_model(config)
    model.save_pretrained(directory, max_shard_size="60KB")
    return model, directory


def run_line(parts: list[SpanModel], tokens: Tensor, rounds: list[tuple[int, int]]) -> Tensor:
    slabs = [Slab(64) for _ in parts]
    logits: list[Tensor] = []
    for start, end in rounds:
        hidden = tokens[start:end]
        for part, slab in zip(parts, slabs, strict=True):
            segment = Segment(slab, start, end - start)
            hidden = part.run(hidden, [segment], part.span, range(end - start))
        logits.append(hidden)
    return torch.cat(logits)


@torch.inference_mode()
def check_loaded(model: PreTrainedModel, directory: Path) -> list[SpanModel]:
    tokens = torch.randint(3, 150, (LENGTHS[0],))
    expected = model(input_ids=tokens[None], use_cache=False).logits[0]
    parts = [load_span(directory, span) for span in SPANS]
    found = run_line(parts, tokens, [(0, 14), (14, 15), (15, 16), (16, 21)])
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    return parts


@pytest.mark.parametrize(
    "family",
    ["mixtral", "qwen3_moe", "gpt2", "gpt_oss", "deepseek_v3", "falcon", "bloom", "gptj", "jamba"],
)
def test_spans_load_only_their_tensors_and_give_the_whole_model_s_numbers(
    family: str, tmp_path: Path
):
    model, directory = save(tiny_config(family), tmp_path)
    parts = check_loaded(model, directory)
    sizes = [sum(p.nbytes for p in part._model.parameters()) for part in parts]
    assert max(sizes) < 0.6 * sum(p.nbytes for p in model.parameters())


def test_a_tied_head_is_loaded_with_the_last_span(tmp_path: Path):
    config = tiny_config("qwen2")
    config.tie_word_embeddings = True
    model, directory = save(config, tmp_path)
    check_loaded(model, directory)


def test_keys_without_the_model_s_prefix_are_found(tmp_path: Path):
    model, _ = save(tiny_config("gpt2"), tmp_path)
    model.base_model.save_pretrained(tmp_path, max_shard_size="60KB")  # as the hub's gpt2 is
    check_loaded(model, tmp_path)


def test_the_language_model_of_a_multimodal_one_is_served(tmp_path: Path):
    text = tiny_config("gemma3_text")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    vision = {**sizes, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = CONFIG_MAPPING["gemma3"](text_config=text.to_dict(), vision_config=vision)
    whole, directory = save(config, tmp_path)
    assert AutoConfig.from_pretrained(directory).model_type == "gemma3"
    check_loaded(whole, directory)


def test_a_refused_family_is_named_with_the_reason(tmp_path: Path):
    tiny_config("zamba2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'zamba2' is not served: its blocks also read"):
        load_span(tmp_path, SPANS[0])


# a cache of their own


def alone(family: str, tmp_path: Path) -> SpanModel:
    return load_span(save(tiny_config(family), tmp_path)[1], Span(0, NUM_BLOCKS))


def step(model: SpanModel, slab: Slab, tokens: list[int], position: int) -> Tensor:
    segment = Segment(slab, position, len(tokens))
    return model.run(torch.tensor(tokens), [segment], model.span, range(len(tokens)))


@pytest.mark.parametrize("family", ["gptj", "doge", "inkling_text"])
def test_keys_and_values_of_their_own_are_rewound(family: str, tmp_path: Path):
    model, slab = alone(family, tmp_path), Slab(64)
    tokens = list(range(5, 25))
    whole = step(model, slab, tokens, 0)
    assert torch.allclose(step(model, slab, tokens[15:], 15), whole[15:], atol=1e-4)
    assert torch.allclose(step(model, slab, tokens[17:18], 17), whole[17:18], atol=1e-4)
    assert torch.allclose(step(model, slab, tokens, 0), whole, atol=1e-4)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "lfm2", "qwen3_next", "falcon_h1"])
def test_states_are_rewound_into_the_last_short_step(family: str, tmp_path: Path):
    model, slab = alone(family, tmp_path), Slab(128)
    tokens = [5 + i % 100 for i in range(90)]
    whole = step(model, slab, tokens, 0)
    step(model, slab, tokens[:80], 0)
    step(model, slab, [tokens[80], tokens[81], 3, 3], 80)  # two guesses turn out wrong
    assert torch.allclose(step(model, slab, tokens[82:85], 82), whole[82:85], atol=1e-4)
    assert torch.allclose(step(model, slab, tokens[82:84], 82), whole[82:84], atol=1e-4)
    assert torch.allclose(step(model, slab, tokens[84:85], 84), whole[84:85], atol=1e-4)


def test_states_that_cannot_be_rewound_ask_for_everything_anew(tmp_path: Path):
    model, slab = alone("mamba2", tmp_path), Slab(128)
    whole = step(model, slab, list(range(5, 105)), 0)
    with pytest.raises(StepRefused) as refused:
        step(model, slab, [8], 3)
    assert (refused.value.reason, refused.value.cached) == ("position_gap", 0)
    assert torch.allclose(step(model, slab, list(range(5, 105)), 0), whole, atol=1e-4)


def test_a_cache_of_their_own_counts_as_memory(tmp_path: Path):
    model, slab = alone("gptj", tmp_path), Slab(64)
    step(model, slab, [5, 6], 0)
    assert slab.num_bytes == 2 * NUM_BLOCKS * 2 * 64 * 4


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
    "long_factor": [8.0] * 8,
    "original_max_position_embeddings": 40,
}
CHANGING: dict[str, tuple[dict[str, object], int]] = {
    "dynamic": ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, 64),
    "longrope": (LONGROPE, 40),
}


@pytest.mark.parametrize("kind", CHANGING)
def test_frequencies_that_change_with_the_length_are_served_until_they_do(
    kind: str, tmp_path: Path
):
    rope, longest = CHANGING[kind]
    whole = build("llama", max_position_embeddings=64, rope_parameters=rope)
    model = load_span(save_whole(whole, tmp_path / "m"), Span(0, 6))
    assert model.batches
    assert model.max_positions == longest
    texts = [torch.arange(5, 5 + longest), torch.arange(30, 40)]
    slabs, outputs = [Slab(64), Slab(64)], []
    for start, end in ((0, 9), (9, 10), (10, longest)):
        segments = [
            Segment(slab, start, min(end, len(text)) - start)
            for slab, text in zip(slabs, texts, strict=True)
            if start < len(text)
        ]
        inputs = torch.cat([t[start:end] for t in texts])
        outputs.append(model.run(inputs, segments, model.span, range(end - start))[: end - start])
    with torch.no_grad():
        expected = whole(texts[0][None]).logits[0]
    assert torch.allclose(torch.cat(outputs), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_table_of_all_families_is_what_the_self_test_finds():
    found = {family: judge_family(family) for family in all_families()}
    assert found == Found.load().families
