"""Packed weights give what plain ones do, and are used only where they do and where they help."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.swarm import Span
from tests.models import build, save
from worker import mapped_memory, packed_linear, packing_probe, weights
from worker.kv_cache import Segment, Slab
from worker.mapped_memory import forget, is_mapped
from worker.packed_linear import PackedLinear, can_pack, is_packed, pack
from worker.packing_probe import packing_helps
from worker.selftest import judge_family
from worker.span_model import SpanModel
from worker.weights import load_span

pytestmark = pytest.mark.skipif(not can_pack(), reason="this build of torch cannot pack weights")

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


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says of tiny weights."""
    monkeypatch.setattr(weights, "packing_helps", lambda model: True)


def logits(model: SpanModel, ids: Sequence[int]) -> Tensor:
    segment = Segment(Slab(16), 0, len(ids))
    return model.run(torch.tensor(ids), [segment], model.span, range(len(ids)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_packed_layer_computes_what_the_plain_one_did(dtype: torch.dtype, bias: bool):
    plain = nn.Linear(96, 160, bias=bias, dtype=dtype)
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN multiplies no bfloat16 on this processor")
    packed = PackedLinear(plain.weight, plain.bias)
    for shape in ((96,), (1, 96), (1, 40, 96), (2, 3, 96), (0, 96)):
        rows = torch.randn(shape).to(dtype)
        found, expected = packed(rows), plain(rows)
        assert (found.shape, found.dtype) == (expected.shape, dtype)
        assert torch.allclose(found, expected, atol=1e-5 if dtype == torch.float32 else 2e-2)


@torch.inference_mode()
def test_rows_together_give_what_each_gives_alone():
    packed = PackedLinear(torch.randn(160, 96), None)
    rows = torch.randn(24, 96)
    alone = torch.cat([packed(row[None]) for row in rows])
    assert torch.allclose(packed(rows), alone, atol=1e-5)


def test_only_plain_layers_of_known_dtypes_are_replaced():
    model = nn.Sequential(
        nn.Linear(16, 16), Subclass(16, 16), nn.Linear(16, 16, dtype=torch.float16)
    )
    pack(model)
    assert [type(module) for module in model] == [PackedLinear, Subclass, nn.Linear]


def test_a_layer_in_two_places_is_packed_once():
    layer = nn.Linear(16, 16)
    model = nn.ModuleList([nn.Sequential(layer), nn.Sequential(layer)])
    pack(model)
    assert model[0][0] is model[1][0]  # type: ignore[index]
    assert layer.weight is None


def test_a_tied_table_in_memory_does_not_stand_there_twice():
    model = Tied()
    pack(model)
    assert not is_packed(model)


def test_a_tied_head_is_packed_beside_the_mapped_rows(directory: Path, packs: None):
    plain = logits(SpanModel(build("qwen2", tie_word_embeddings=True), WHOLE), [5, 6, 7])
    loaded = load_span(directory, WHOLE)
    model: Any = loaded._model
    assert is_mapped(model.get_input_embeddings().weight)
    assert isinstance(model.lm_head, PackedLinear)
    assert torch.allclose(logits(loaded, [5, 6, 7]), plain, atol=1e-4)


def test_the_last_span_keeps_no_plain_rows_beside_its_head(directory: Path, packs: None):
    last = load_span(directory, Span(3, 6))
    assert last.is_packed
    tables = [p for p in last._model.parameters() if p.shape == (last.vocab_size, 64)]
    assert len(tables) == 1


def test_a_family_whose_code_reads_the_weights_is_left_alone(tmp_path: Path, packs: None):
    assert not judge_family("mamba").packs
    assert judge_family("llama").packs


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
    return nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))


def timed(monkeypatch: pytest.MonkeyPatch, packed_seconds: float) -> None:
    def seconds(multiply: Sequence[Any], inputs: Any) -> float:
        return packed_seconds if isinstance(multiply[0], PackedLinear) else 1.0

    monkeypatch.setattr(packing_probe, "_seconds", seconds)


def test_packing_helps_where_it_is_no_slower(model: nn.Module, monkeypatch: pytest.MonkeyPatch):
    timed(monkeypatch, 0.9)
    assert packing_helps(model)
    timed(monkeypatch, 1.5)
    assert not packing_helps(model)


def test_packing_helps_not_where_numbers_differ(model: nn.Module, monkeypatch: pytest.MonkeyPatch):
    timed(monkeypatch, 0.9)
    wrong = nn.Linear(64, 64, bias=False)
    monkeypatch.setattr(PackedLinear, "forward", lambda self, rows: wrong(rows))
    assert not packing_helps(model)


def test_packing_helps_not_where_it_cannot_be_done(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
):
    class Lacking:
        pass

    monkeypatch.setattr(packed_linear, "_onednn", Lacking())
    assert not packing_helps(model)
    assert not packing_helps(nn.Sequential(nn.LayerNorm(4)))


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
