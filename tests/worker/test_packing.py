"""Packed layers give what plain ones do, and are used only where they do and where they help."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from shared.swarm import Span
from tests.models import build, save
from worker import half_linear, mapped_memory, packed_linear, packing_probe, weights
from worker.half_linear import HalfLinear
from worker.kv_cache import Segment, Slab
from worker.mapped_memory import forget, is_mapped
from worker.packed_linear import PackedLinear
from worker.packing import PACKINGS, Packing, can_pack, pack, packing_of
from worker.packing_probe import best_packing
from worker.selftest import judge_family, random_model
from worker.shrink import tiny_config
from worker.span_model import SpanModel
from worker.weights import load_span

pytestmark = pytest.mark.skipif(
    not all(map(can_pack, PACKINGS)), reason="this build of torch cannot pack weights"
)

WHOLE = Span(0, 6)


class Subclass(nn.Linear):
    """As bitsandbytes has them."""


class Tied(nn.Module):
    """A head that shares its weight with an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 16)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embedding.weight


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build("qwen2", tie_word_embeddings=True)
    return save(model, tmp_path_factory.mktemp("packed") / "tied")


@pytest.fixture(params=PACKINGS)
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Packing:
    """Whatever the clock says of tiny weights."""
    monkeypatch.setattr(weights, "best_packing", lambda model, dtype: request.param)
    return request.param


def logits(model: SpanModel, ids: Sequence[int]) -> Tensor:
    segment = Segment(Slab(16), 0, len(ids))
    return model.run(torch.tensor(ids), [segment], model.span, range(len(ids)))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_packed_layer_computes_what_the_plain_one_did(
    packing: Packing, dtype: torch.dtype, bias: bool
):
    plain = nn.Linear(96, 160, bias=bias, dtype=torch.bfloat16).to(dtype)
    is_lacking = dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if packing is PackedLinear and is_lacking:
        pytest.skip("oneDNN multiplies no bfloat16 on this processor")
    packed = packing(plain.weight, plain.bias, dtype)
    for shape in ((1, 96), (1, 40, 96), (2, 3, 96), (0, 96)):
        rows = torch.randn(shape).to(dtype)
        found, expected = packed(rows), plain(rows)
        assert (found.shape, found.dtype) == (expected.shape, dtype)
        assert torch.allclose(found, expected, atol=1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("packing", PACKINGS)
@torch.inference_mode()
def test_rows_together_give_what_each_gives_alone(packing: Packing):
    packed = packing(torch.randn(160, 96).bfloat16(), None, torch.float32)
    rows = torch.randn(24, 96)
    alone = torch.cat([packed(row[None]) for row in rows])
    assert torch.allclose(packed(rows), alone, atol=1e-5)


@pytest.mark.parametrize("packing", PACKINGS)
def test_only_plain_layers_of_known_dtypes_are_replaced(packing: Packing):
    model = nn.Sequential(
        nn.Linear(16, 16, dtype=torch.bfloat16),
        Subclass(16, 16),
        nn.Linear(16, 16, dtype=torch.float64),
    )
    pack(model, packing, torch.float32)
    assert [type(module) for module in model] == [packing, Subclass, nn.Linear]
    assert packing_of(model) is packing


def test_a_layer_in_two_places_is_packed_once():
    layer = nn.Linear(16, 16)
    model = nn.ModuleList([nn.Sequential(layer), nn.Sequential(layer)])
    pack(model, PackedLinear, torch.float32)
    assert model[0][0] is model[1][0]  # type: ignore[index]
    assert layer.weight is None


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_tied_table_in_memory_does_not_stand_there_twice(packing: Packing):
    model = Tied().bfloat16()
    pack(model, packing, torch.bfloat16)
    assert packing_of(model) is None


def test_a_tied_head_is_packed_beside_the_mapped_rows(
    directory: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(weights, "best_packing", lambda model, dtype: PackedLinear)
    plain = logits(SpanModel(build("qwen2", tie_word_embeddings=True), WHOLE), [5, 6, 7])
    loaded = load_span(directory, WHOLE)
    model: Any = loaded._model
    assert is_mapped(model.get_input_embeddings().weight)
    assert isinstance(model.lm_head, PackedLinear)
    assert torch.allclose(logits(loaded, [5, 6, 7]), plain, atol=1e-4)


def test_the_last_span_keeps_no_plain_rows_beside_its_head(halves: Path, packing: Packing):
    last = load_span(halves, Span(3, 6), dtype=torch.float32)
    assert last.packing is packing
    tables = [p for p in last._model.parameters() if p.numel() == 64 * last.vocab_size]
    assert len(tables) == (packing is PackedLinear)


def test_a_family_whose_code_reads_the_weights_is_left_alone():
    assert not judge_family("mamba").packs
    assert judge_family("llama").packs


# weights of 16 bits, computed with in float32


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16])
def halves(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as they are published."""
    model = build("qwen2", tie_word_embeddings=True).to(request.param)
    return save(model, tmp_path_factory.mktemp("halves") / "half")


def test_weights_of_16_bits_computed_with_in_float32_give_what_float32_gives(
    halves: Path, packing: Packing
):
    plain = logits(SpanModel(plain_model(halves), WHOLE), [5, 6, 7])
    loaded = load_span(halves, WHOLE, dtype=torch.float32)
    found = logits(loaded, [5, 6, 7])
    assert loaded.packing is packing
    assert (loaded.dtype, found.dtype) == (torch.float32, torch.float32)
    assert torch.allclose(found, plain, atol=1e-4)


def plain_model(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def test_they_take_half_of_what_float32_takes_in_whole_tiles():
    def taken(inputs: int, outputs: int) -> int:
        return HalfLinear(torch.ones(outputs, inputs), None, torch.float32).packed_bytes

    assert taken(1024, 4096) == 2 * 1024 * 4096
    assert taken(1280, 4096) == 2 * 1536 * 4096
    assert taken(1024, 4100) == 2 * 1024 * 4112


def test_the_weights_of_a_span_are_counted_as_they_are_packed(
    halves: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(weights, "best_packing", lambda model, dtype: HalfLinear)
    loaded = load_span(halves, Span(2, 4), dtype=torch.float32)
    layers = [m for m in loaded._model.modules() if isinstance(m, HalfLinear)]
    rest = sum(p.nbytes for p in loaded._model.parameters())
    assert len(layers) == 2 * 7
    assert loaded.weight_bytes == rest + sum(layer.packed_bytes for layer in layers)


def test_they_are_mapped_until_they_are_packed(halves: Path, monkeypatch: pytest.MonkeyPatch):
    """So that a span never stands in memory as float32, at twice its size."""
    seen: list[bool] = []

    def look(model: nn.Module, dtype: torch.dtype) -> None:
        seen.extend(
            is_mapped(module.weight)
            for module in model.modules()
            if type(module) in (nn.Linear, nn.Embedding)
        )

    monkeypatch.setattr(weights, "best_packing", look)
    loaded = load_span(halves, WHOLE, dtype=torch.float32)
    assert len(seen) == 6 * 7 + 2
    assert all(seen)
    assert {p.dtype for p in loaded._model.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3", "nemotron_h"])
def test_experts_are_packed_one_by_one(family: str):
    config = tiny_config(family)
    model: Any = random_model(config)
    tokens = torch.arange(5, 25)[None]
    with torch.inference_mode():
        expected = model(input_ids=tokens).logits
        pack(model, HalfLinear, torch.float32)
        found = model(input_ids=tokens).logits
    assert isinstance(
        next(m for n, m in model.named_modules() if "packed_down_proj.1" in n), HalfLinear
    )
    assert torch.allclose(found, expected, atol=1e-4 * max(1.0, expected.abs().max().item()))


def test_experts_that_float16_cannot_hold_stay_as_they_are():
    config = tiny_config("mixtral")
    model: Any = random_model(config)
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj.add_(1e-5)
    pack(model, HalfLinear, torch.float32)
    assert model.model.layers[0].mlp.experts.gate_up_proj.ndim == 3


def test_experts_of_16_bits_computed_with_in_float32_give_what_float32_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    model = random_model(tiny_config("qwen3_moe")).bfloat16()
    model.save_pretrained(tmp_path / "moe")
    monkeypatch.setattr(weights, "best_packing", lambda model, dtype: HalfLinear)
    whole = Span(0, model.config.num_hidden_layers)
    found = logits(load_span(tmp_path / "moe", whole, dtype=torch.float32), [5, 6, 7])
    plain = logits(SpanModel(plain_model(tmp_path / "moe"), whole), [5, 6, 7])
    assert torch.allclose(found, plain, atol=1e-4)


def test_an_embedding_stays_in_its_file(halves: Path, packing: Packing):
    loaded = load_span(halves, Span(0, 3), dtype=torch.float32)
    table = loaded._model.get_input_embeddings().weight
    assert table.dtype in (torch.bfloat16, torch.float16)
    assert is_mapped(table)
    assert logits(loaded, [5, 6]).dtype == torch.float32
    assert not any("embed" in name for name, _ in loaded._model.named_parameters())


def test_matrices_of_several_dtypes_are_all_loaded_as_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model: Any = build("llama")
    exact = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    model.model.layers[1].bfloat16()
    directory = save(model, tmp_path / "mixed")
    monkeypatch.setattr(weights, "best_packing", lambda model, dtype: None)
    loaded: Any = load_span(directory, WHOLE, dtype=torch.float32)._model
    assert torch.equal(loaded.model.layers[0].block.mlp.up_proj.weight, exact)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e30])
def test_float16_holds_what_bfloat16_and_float16_do_and_no_more(size: float):
    weight = size * torch.randn(64, 64)
    assert HalfLinear.holds(weight.bfloat16())
    assert HalfLinear.holds(weight.bfloat16().float())
    assert HalfLinear.holds((weight / size).half())
    assert not HalfLinear.holds(weight)


def test_float16_holds_zeros_and_nothing_that_is_no_number():
    assert HalfLinear.holds(torch.zeros(4, 4))
    assert not HalfLinear.holds(torch.full((4, 4), float("nan")))
    assert not HalfLinear.holds(torch.full((4, 4), float("inf"), dtype=torch.bfloat16))


@torch.inference_mode()
def test_both_ways_to_the_kernels_give_the_same(monkeypatch: pytest.MonkeyPatch):
    weight, rows = torch.randn(160, 96).bfloat16(), torch.randn(4, 96)
    bias = torch.randn(160)
    quick = HalfLinear(weight, bias, torch.float32)(rows)
    monkeypatch.delattr(torch, "fbgemm_pack_gemm_matrix_fp16")
    pack, multiply = half_linear._kernels()
    monkeypatch.setattr(half_linear, "_pack", pack)
    monkeypatch.setattr(half_linear, "_multiply", multiply)
    assert torch.equal(HalfLinear(weight, bias, torch.float32)(rows), quick)


@torch.inference_mode()
def test_small_numbers_lose_no_digits_and_large_ones_do_not_overflow():
    for size in (1e-7, 1e5):
        weight = (size * torch.randn(160, 96)).bfloat16()
        rows = torch.randn(4, 96)
        found = HalfLinear(weight, None, torch.float32)(rows)
        assert torch.allclose(found, rows @ weight.float().T, rtol=1e-4, atol=1e-5 * size)


def test_pages_of_a_file_are_let_go_and_read_again(tmp_path: Path):
    save_file({"weight": torch.arange(4 << 20, dtype=torch.float32)}, tmp_path / "t.safetensors")
    tensor = load_file(tmp_path / "t.safetensors")["weight"]
    total = tensor.double().sum()
    before = resident_file_bytes()
    forget(tensor)
    assert is_mapped(tensor)
    assert not is_mapped(torch.zeros(1 << 20))
    assert resident_file_bytes() < before - (12 << 20)
    assert tensor.double().sum() == total


def resident_file_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssFile:")[2].split()[0]) * 1024


def test_where_files_are_not_told_nothing_is_mapped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mapped_memory, "_MAPS", Path("/nowhere"))
    assert not is_mapped(torch.zeros(4))


# the probe


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).bfloat16()


def timed(monkeypatch: pytest.MonkeyPatch, **packed_seconds: float) -> None:
    def seconds(multiply: Sequence[Any], inputs: Any) -> float:
        return packed_seconds.get(type(multiply[0]).__name__, 1.0)

    monkeypatch.setattr(packing_probe, "_seconds", seconds)


def test_what_is_fastest_is_best_and_nothing_where_all_are_slower(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
):
    timed(monkeypatch, HalfLinear=0.5, PackedLinear=0.9)
    assert best_packing(model, torch.float32) is HalfLinear
    timed(monkeypatch, HalfLinear=0.9, PackedLinear=0.5)
    assert best_packing(model, torch.float32) is PackedLinear
    timed(monkeypatch, HalfLinear=1.5, PackedLinear=1.5)
    assert best_packing(model, torch.float32) is None


def test_float16_is_not_best_where_it_does_not_hold_the_weights(monkeypatch: pytest.MonkeyPatch):
    timed(monkeypatch, HalfLinear=0.5, PackedLinear=0.9)
    assert best_packing(nn.Linear(64, 64), torch.float32) is PackedLinear


def test_nothing_is_best_where_numbers_differ(model: nn.Module, monkeypatch: pytest.MonkeyPatch):
    timed(monkeypatch, HalfLinear=0.9, PackedLinear=0.9)
    wrong = nn.Linear(64, 64, bias=False)
    for packing in PACKINGS:
        monkeypatch.setattr(packing, "forward", lambda self, rows: wrong(rows))
    assert best_packing(model, torch.float32) is None


def test_nothing_is_best_where_it_cannot_be_done(model: nn.Module, monkeypatch: pytest.MonkeyPatch):
    class Lacking:
        pass

    def lacking(weight: Tensor) -> None:
        raise RuntimeError("FBGEMM is not supported on this CPU")

    monkeypatch.setattr(packed_linear, "_onednn", Lacking())
    monkeypatch.setattr(half_linear, "_pack", lacking)
    assert best_packing(model, torch.float32) is None
    assert best_packing(model, torch.float16) is None
    assert best_packing(nn.Sequential(nn.LayerNorm(4)), torch.float32) is None


def test_code_that_was_let_go_of_is_there_when_it_is_called():
    weight = torch.randn(8, 8)
    expected = weight @ weight
    before = resident_files()
    mapped_memory.forget_code()
    assert resident_files() < before / 2
    assert torch.equal(weight @ weight, expected)


def resident_files() -> int:
    """kB of files that are in this process's memory, see proc_pid_status(5)."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "RssFile" in line
    )
    return int(line.split()[1])
