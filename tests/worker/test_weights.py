"""Only what a span needs is opened, and what is wrong with a model's files is said plainly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import ModelError
from shared.swarm import Span
from tests.models import build, save
from worker.weights import INDEX, SINGLE, load_span

SPAN = Span(0, 3)
TENSOR = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama"), tmp_path_factory.mktemp("weights") / "sharded")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    """A model in many shards, to be broken."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def shard_of(model: Path, tensor: str = TENSOR) -> Path:
    return model / json.loads((model / INDEX).read_text())["weight_map"][tensor]


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def make_single(model: Path) -> Path:
    """Put all tensors into one file, without an index."""
    shards = sorted(model.glob("*.safetensors"))
    tensors = {key: value for shard in shards for key, value in load_file(shard).items()}
    for path in [*shards, model / INDEX]:
        path.unlink()
    save_file(tensors, model / SINGLE, {"format": "pt"})
    return model / SINGLE


def complaint(model: Path, span: Span = SPAN, dtype: torch.dtype | None = None) -> str:
    with pytest.raises(ModelError) as refused:
        load_span(model, span, dtype=dtype)
    return str(refused.value)


def parameters(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_span(directory, SPAN)._model.named_parameters())


def test_shards_of_other_blocks_are_not_even_opened(model: Path):
    expected = parameters(model)
    index = json.loads((model / INDEX).read_text())["weight_map"]
    foreign = ("model.layers.3.", "model.layers.4.", "model.layers.5.", "lm_head.")
    ours = {file for key, file in index.items() if not key.startswith(foreign)}
    for path in model.glob("*.safetensors"):
        if path.name not in ours:
            path.write_bytes(b"never read")
    assert len(ours) < len(set(index.values())) - 5
    found = parameters(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_file_without_index_does_as_well(model: Path):
    expected = parameters(model)
    make_single(model)
    found = parameters(model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_plan_counts_the_tensors_and_bytes_about_to_be_read(model: Path):
    plans: list[tuple[int, int]] = []
    loaded = load_span(model, Span(2, 4), on_plan=lambda *plan: plans.append(plan))
    sizes = [p.nbytes for p in loaded._model.parameters()]
    assert plans == [(len(sizes), sum(sizes))]


def test_the_checkpoint_s_own_dtype_is_kept_unless_another_is_asked_for(model: Path):
    assert load_span(model, SPAN).dtype == torch.float32
    assert load_span(model, SPAN, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_without_config_there_is_no_model(model: Path):
    (model / "config.json").unlink()
    assert "holds no config.json; name a directory" in complaint(model)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_config_that_is_no_json_object_is_named(model: Path, text: str):
    (model / "config.json").write_text(text)
    assert f"{model / 'config.json'} is not" in complaint(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "zorp"},
        {"model_type": None},
        {"num_hidden_layers": "six"},
        {"num_attention_heads": 0},
        {"hidden_size": None},
        {"hidden_act": "zorp"},
    ],
    ids=str,
)
def test_a_config_that_transformers_cannot_use_is_named(model: Path, changes: dict[str, object]):
    change_json(model / "config.json", **changes)
    assert complaint(model).startswith(f"{model / 'config.json'}: transformers cannot use it")


@pytest.mark.parametrize(
    ("family", "reason"),
    [("vit", "it is no causal language model"), ("rwkv", "it runs on a cache of its own")],
)
def test_a_family_that_cannot_be_served_is_refused_with_the_reason(
    model: Path, family: str, reason: str
):
    change_json(model / "config.json", model_type=family)
    assert f"model type '{family}' is not served: {reason}" in complaint(model)


def test_a_model_s_own_code_is_never_run_nor_offered_to_be(
    model: Path, capfd: pytest.CaptureFixture[str]
):
    marker = model / "it-ran"
    (model / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\n")
    change_json(model / "config.json", model_type="zorp", auto_map={"AutoConfig": "evil.Config"})
    assert "config.json: transformers cannot use it" in complaint(model)
    assert not marker.exists()
    assert "y/N" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_a_missing_shard_is_named(model: Path, dtype: torch.dtype | None):
    shard = shard_of(model)
    shard.unlink()
    missing = f"shard {shard} is missing; fetch the model again"
    assert complaint(model, dtype=dtype) == missing


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_shard_is_named(model: Path, keep: int):
    shard = shard_of(model)
    shard.write_bytes(shard.read_bytes()[:keep])
    assert complaint(model).startswith(f"shard {shard} is corrupt")
    assert complaint(model).endswith("fetch it again")


def test_a_shard_of_rubbish_is_named(model: Path):
    shard = shard_of(model)
    shard.write_bytes(b"\xff" * 1000)
    assert complaint(model).startswith(f"shard {shard} is corrupt")


def test_a_truncated_single_file_is_named(model: Path):
    single = make_single(model)
    single.write_bytes(single.read_bytes()[:-9])
    assert complaint(model).startswith(f"shard {single} is corrupt")


def test_a_missing_tensor_is_named(model: Path):
    change_tensors(shard_of(model), lambda tensors: tensors.pop(TENSOR))
    message = complaint(model)
    assert f"{model}: the checkpoint lacks tensors of blocks 0:3: {TENSOR}" in message
    assert message.endswith("fetch the model again")


def test_a_misshapen_tensor_is_named(model: Path):
    change_tensors(shard_of(model), lambda tensors: tensors.update({TENSOR: torch.zeros(3, 4)}))
    message = complaint(model)
    assert f"{model}: tensor {TENSOR} is [3, 4], but config.json makes it [96, 64]" in message


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": [1]}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "../../elsewhere/model.safetensors"}}',
        '{"weight_map": {"a": "/etc/model.safetensors"}}',
        '{"weight_map": {"a": "pytorch_model.bin"}}',
    ],
)
def test_an_index_that_does_not_read_is_named(model: Path, index: str):
    (model / INDEX).write_text(index)
    message = complaint(model)
    assert message.startswith(f"{model / INDEX} does not read")
    assert message.endswith("fetch it again")


def test_an_index_without_tensors_loads_nothing(model: Path):
    (model / INDEX).write_text('{"weight_map": {}}')
    assert complaint(model).startswith(f"{model}: the checkpoint ")


def test_pickles_are_never_loaded(model: Path):
    for path in [*model.glob("*.safetensors"), model / INDEX]:
        path.unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    message = complaint(model)
    assert f"{model} holds no {SINGLE} nor {INDEX}; fetch the model again" in message
    assert "pytorch_model.bin is a pickle and never loaded: convert it" in message


@pytest.mark.parametrize("span", [Span(0, 7), Span(6, 8)])
def test_blocks_outside_the_model_are_refused(model: Path, span: Span):
    assert complaint(model, span) == (
        f"blocks {span} are outside {model}, which has 0:6; choose other --blocks"
    )
