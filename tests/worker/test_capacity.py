"""What a machine has room for."""

from pathlib import Path

import pytest
import torch

from shared.errors import ConfigError
from shared.swarm import Span
from tests.models import build, save
from worker import capacity
from worker.capacity import bytes_per_token, choose_device, choose_dtype, pages_that_fit
from worker.span_model import SpanModel
from worker.weights import load_span

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("qwen2"), tmp_path_factory.mktemp("capacity") / "m")


@pytest.fixture(scope="module")
def model(directory: Path) -> SpanModel:
    return load_span(directory, Span(0, 2))


def test_auto_takes_cuda_where_there_is_any(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(ConfigError, match="use --device cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


def test_auto_keeps_the_checkpoint_s_dtype_except_where_it_would_be_emulated(
    monkeypatch: pytest.MonkeyPatch,
):
    assert choose_dtype("float16", CPU) == torch.float16
    assert choose_dtype("auto", torch.device("cuda")) is None
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_dtype("auto", CPU) is None
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert choose_dtype("auto", CPU) == torch.float32


@pytest.mark.parametrize("span", [Span(0, 2), Span(2, 4), Span(4, 6)])
def test_a_token_s_cache_is_keys_and_values_of_every_block_hosted(directory: Path, span: Span):
    assert bytes_per_token(load_span(directory, span)) == 2 * (2 * 2 * 16) * 4


def test_the_tokens_asked_for_are_offered_in_whole_pages(model: SpanModel):
    assert [pages_that_fit(model, tokens) for tokens in (1, 16, 100)] == [1, 1, 6]


def test_by_default_half_the_free_memory_is_offered(
    model: SpanModel, monkeypatch: pytest.MonkeyPatch
):
    page = bytes_per_token(model) * 16
    monkeypatch.setattr(capacity, "mapped_bytes", lambda: 0)
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 20 * page)
    assert pages_that_fit(model, 0) == 10
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 0)
    assert pages_that_fit(model, 0) == 1


def test_free_memory_is_what_the_machine_or_the_container_leaves(monkeypatch: pytest.MonkeyPatch):
    assert capacity.free_bytes(CPU) > 1 << 20
    monkeypatch.setattr(capacity, "_cgroup_free", lambda: 12345)
    assert capacity.free_bytes(CPU) == 12345


def test_weights_that_are_mapped_from_files_are_not_free_memory(
    model: SpanModel, monkeypatch: pytest.MonkeyPatch
):
    page = bytes_per_token(model) * 16
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 20 * page + model.weight_bytes)
    monkeypatch.setattr(capacity, "mapped_bytes", lambda: 1 << 40)
    assert pages_that_fit(model, 0) == 10
