"""What a machine has room for."""

from pathlib import Path
from typing import Any

import pytest
import torch

from shared.errors import ConfigError
from shared.swarm import Span
from tests.models import build, save
from worker import capacity
from worker.capacity import (
    bytes_per_token,
    choose_device,
    choose_dtype,
    layout_of,
    new_cache,
    pages_that_fit,
)
from worker.kv_cache import PAGE_TOKENS
from worker.page_pool import PagePool, Rows, page_bytes
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


class OnCuda:
    """A model that says it is on a device; measuring it runs it where it is."""

    device = torch.device("cuda", 0)

    def __init__(self, model: SpanModel, *, has_own_caches: bool = False) -> None:
        self.has_own_caches = has_own_caches
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.fixture
def on_cuda(model: SpanModel) -> Any:
    return OnCuda(model)


def test_a_page_takes_what_its_tokens_take(model: SpanModel):
    assert layout_of(model) == {i: (Rows(2, 16, torch.float32),) * 2 for i in (0, 1)}
    assert page_bytes(layout_of(model)) == PAGE_TOKENS * bytes_per_token(model)


def test_a_device_offers_most_of_its_free_memory_or_what_was_asked_for(
    on_cuda: Any, monkeypatch: pytest.MonkeyPatch
):
    page = bytes_per_token(on_cuda) * PAGE_TOKENS
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 20 * page)
    assert [pages_that_fit(on_cuda, tokens) for tokens in (0, 1, 100, 320)] == [16, 1, 6, 20]


def test_a_device_without_room_says_what_to_change(on_cuda: Any, monkeypatch: pytest.MonkeyPatch):
    page = bytes_per_token(on_cuda) * PAGE_TOKENS
    monkeypatch.setattr(capacity, "free_bytes", lambda device: page)
    with pytest.raises(ConfigError, match=r"32 tokens .* lower --kv-tokens"):
        pages_that_fit(on_cuda, 32)
    with pytest.raises(ConfigError, match=r"16 tokens of cache need .* host fewer --blocks$"):
        pages_that_fit(on_cuda, 0)


def test_on_a_device_the_pages_offered_are_there_from_the_start(
    on_cuda: Any, model: SpanModel, monkeypatch: pytest.MonkeyPatch
):
    pools: list[tuple[int, torch.device]] = []

    def make(layout: Any, pages: int, device: torch.device) -> PagePool:
        pools.append((pages, device))
        if pages > 100:
            raise torch.OutOfMemoryError
        return PagePool(layout, pages, CPU)

    monkeypatch.setattr(capacity, "PagePool", make)
    new_cache(on_cuda, 3)
    new_cache(model, 3)
    new_cache(OnCuda(model, has_own_caches=True), 3)  # type: ignore[arg-type]
    assert pools == [(3, on_cuda.device)]
    with pytest.raises(ConfigError, match=r"3200 tokens of cache need .* lower --kv-tokens"):
        new_cache(on_cuda, 200)
