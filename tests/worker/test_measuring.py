"""How long a block takes here."""

import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from shared.errors import ModelError
from shared.swarm import Span
from tests.models import build, save
from worker import measuring
from worker.capacity import new_cache
from worker.kv_cache import KvCache
from worker.measuring import measure_pace
from worker.weights import load_span


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama"), tmp_path_factory.mktemp("measuring") / "m")


@pytest.mark.parametrize("span", [Span(0, 2), Span(2, 4), Span(4, 6)])
def test_every_span_tells_its_pace_and_leaves_its_cache_empty(directory: Path, span: Span):
    model = load_span(directory, span)
    cache = new_cache(model, 64)
    pace = measure_pace(model, cache, 64)
    assert pace.is_known
    assert pace.prefill > 0
    assert (cache.num_parts, cache.num_bytes) == (0, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("span", [Span(0, 2), Span(2, 4), Span(4, 6)])
def test_a_weight_that_is_no_number_is_found_before_anybody_is_served(
    directory: Path, tmp_path: Path, span: Span, value: float
):
    shutil.copytree(directory, tmp_path / "m")
    for shard in (tmp_path / "m").glob("*.safetensors"):
        tensors = load_file(shard)
        for name, tensor in tensors.items():
            if f"layers.{span.start + 1}.mlp.down_proj" in name:
                tensor[3, 5] = value
        save_file(tensors, shard, {"format": "pt"})
    model = load_span(tmp_path / "m", span)
    with pytest.raises(ModelError, match=f"blocks {span} give numbers that are not finite"):
        measure_pace(model, new_cache(model, 64), 64)


def test_sessions_there_is_no_room_for_count_as_run_after_one_another(
    directory: Path, monkeypatch: pytest.MonkeyPatch
):
    sizes: list[int] = []

    def forward(model: object, cache: object, keys: list[object], position: int, count: int):
        sizes.append(len(keys) * count)
        return 2.0 * len(keys)

    monkeypatch.setattr(measuring, "_forward", forward)
    pace = measure_pace(load_span(directory, Span(2, 4)), KvCache(), 4)
    assert pace.decode == (1.0, 8.0, 32.0)
    assert max(sizes) == 64


def test_a_family_that_takes_one_session_at_a_time_is_measured_so(tmp_path: Path):
    model = load_span(save(build("falcon_mamba"), tmp_path / "m"), Span(2, 4))
    pace = measure_pace(model, KvCache(), 64)
    assert pace.is_known
    assert pace.decode[1] > 4 * pace.decode[0]
