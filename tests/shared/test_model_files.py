"""Where a model is, and what its config says."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from shared import model_files
from shared.errors import ModelError
from shared.model_files import BUNDLED, BUNDLED_NAME, locate, name_of, read_spec, revision_of
from shared.swarm import Span

CONFIG = {
    "num_hidden_layers": 6,
    "hidden_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}


def model(directory: Path, config: Any = CONFIG) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(
        config if isinstance(config, str) else json.dumps(config)
    )
    return directory


def test_no_name_means_the_bundled_model():
    assert locate("", with_weights=True) == BUNDLED
    assert name_of("") == BUNDLED_NAME


def test_a_directory_is_a_model_named_after_it(tmp_path: Path):
    directory = model(tmp_path / "my-model")
    assert locate(str(directory), with_weights=True) == directory
    assert name_of(f"{directory}/") == "my-model"


@pytest.mark.parametrize("name", ["./none", "/no/where", "none", "a/b/c", "~/no-such"])
def test_what_is_neither_a_directory_nor_a_hub_id_is_not_looked_for(name: str):
    with pytest.raises(ModelError, match="no such directory"):
        locate(name, with_weights=True)


def test_a_file_is_no_model(tmp_path: Path):
    path = model(tmp_path) / "config.json"
    with pytest.raises(ModelError, match=r"holds config\.json"):
        locate(str(path), with_weights=True)


@pytest.mark.parametrize("with_weights", [False, True])
def test_a_hub_id_is_fetched_without_weights_unless_they_are_wanted(
    with_weights: bool, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[str, list[str]]] = []

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return "/fetched"

    monkeypatch.setattr(model_files, "snapshot_download", fetch)
    assert locate("acme/tiny", with_weights=with_weights) == Path("/fetched")
    assert name_of("acme/tiny") == "acme/tiny"
    assert asked[0][0] == "acme/tiny"
    assert ("*.safetensors" in asked[0][1]) == with_weights
    assert "*.bin" not in asked[0][1]


def test_a_hub_that_does_not_answer_is_said_to_be_the_reason(monkeypatch: pytest.MonkeyPatch):
    def fail(name: str, *, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("we are offline\nand more")

    monkeypatch.setattr(model_files, "snapshot_download", fail)
    with pytest.raises(ModelError, match=r"the hub did not give it \(we are offline\)"):
        locate("acme/tiny", with_weights=True)


def test_the_spec_is_what_config_json_says(tmp_path: Path):
    spec = read_spec(model(tmp_path), "tiny")
    assert (spec.name, spec.num_blocks, spec.hidden_size) == ("tiny", 6, 64)
    assert (spec.vocab_size, spec.max_positions, spec.blocks) == (100, 512, Span(0, 6))


def test_older_names_of_the_same_numbers_are_known(tmp_path: Path):
    spec = read_spec(model(tmp_path, {"n_layer": 2, "n_embd": 8, "vocab_size": 9}), "old")
    assert (spec.num_blocks, spec.hidden_size, spec.max_positions) == (2, 8, 2048)


def test_a_multimodal_config_is_read_where_it_speaks_of_text(tmp_path: Path):
    assert read_spec(model(tmp_path, {"text_config": CONFIG}), "eyes").num_blocks == 6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not readable JSON"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1") + "{", "not readable JSON"),
        ([], "not a JSON object"),
        ({}, "num_hidden_layers"),
        (CONFIG | {"num_hidden_layers": "six"}, "num_hidden_layers"),
        (CONFIG | {"num_hidden_layers": -6}, "num_hidden_layers"),
        (CONFIG | {"num_hidden_layers": 5000}, "not credible"),
        (CONFIG | {"hidden_size": None}, "hidden_size"),
        (CONFIG | {"text_config": ["no"]}, "text_config"),
    ],
    ids=str,
)
def test_an_unusable_config_is_named_with_what_is_wrong(tmp_path: Path, config: Any, message: str):
    with pytest.raises(ModelError, match=r"config\.json.*" + message):
        read_spec(model(tmp_path, config), "broken")


def test_a_directory_without_config_is_no_model(tmp_path: Path):
    with pytest.raises(ModelError, match=r"holds no config\.json; name a directory"):
        read_spec(tmp_path, "empty")


def test_a_hub_snapshot_s_revision_is_its_commit():
    assert revision_of(Path("/hub/snapshots/0123456789abcdef")) == "0123456789ab"


def test_elsewhere_the_revision_follows_the_files_a_gateway_has_too(tmp_path: Path):
    one, two = model(tmp_path / "one"), model(tmp_path / "two")
    assert revision_of(one) == revision_of(two)
    (two / "model.safetensors").write_bytes(b"only workers have this")
    assert revision_of(one) == revision_of(two)
    (two / "tokenizer.json").write_text("{}")
    assert revision_of(one) != revision_of(two)
