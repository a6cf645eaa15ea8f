"""Where a model is, and what its config says."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ModelError
from shared.hub import HubModel
from shared.model_files import (
    BUNDLED,
    BUNDLED_NAME,
    hub_model,
    locate,
    name_of,
    read_spec,
    revision_of,
)
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
    assert locate("") == BUNDLED
    assert name_of("") == BUNDLED_NAME


def test_a_directory_is_a_model_named_after_it(tmp_path: Path):
    directory = model(tmp_path / "my-model")
    assert locate(str(directory)) == directory
    assert name_of(f"{directory}/") == "my-model"


@pytest.mark.parametrize("name", ["./none", "/no/where", "none", "a/b/c", "~/no-such"])
def test_what_is_neither_a_directory_nor_a_hub_id_is_not_looked_for(name: str):
    with pytest.raises(ModelError, match="no such directory"):
        locate(name)


def test_a_file_is_no_model(tmp_path: Path):
    path = model(tmp_path) / "config.json"
    with pytest.raises(ModelError, match=r"holds config\.json"):
        locate(str(path))


def test_a_hub_id_is_served_under_its_name_whatever_its_revision():
    assert name_of("acme/tiny") == name_of("acme/tiny@v1") == "acme/tiny"
    assert hub_model("acme/tiny@v1") == HubModel("acme/tiny", "v1")
    assert hub_model("acme/tiny") == HubModel("acme/tiny", "main")


@pytest.mark.parametrize(
    "name", ["", "./a/b", "/a/b", "~/a", "a", "a/b/c", "a/b@", "a/b@c d", "a/b "]
)
def test_other_names_are_not_looked_for_on_the_hub(name: str):
    assert hub_model(name) is None


def test_a_directory_goes_before_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "acme").mkdir()
    directory = model(tmp_path / "acme" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert hub_model("acme/tiny") is None
    assert locate("acme/tiny").resolve() == directory


def test_the_spec_is_what_config_json_says(tmp_path: Path):
    spec = read_spec(model(tmp_path), "tiny")
    assert (spec.name, spec.num_blocks, spec.hidden_size) == ("tiny", 6, 64)
    assert (spec.vocab_size, spec.max_positions, spec.blocks) == (100, 512, Span(0, 6))


def test_older_names_of_the_same_numbers_are_known(tmp_path: Path):
    spec = read_spec(model(tmp_path, {"n_layer": 2, "n_embd": 8, "vocab_size": 9}), "old")
    assert (spec.num_blocks, spec.hidden_size, spec.max_positions) == (2, 8, 2048)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 40},
        {"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 40}},
        {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default"},
                "full_attention": {
                    "rope_type": "longrope",
                    "original_max_position_embeddings": 40,
                },
            }
        },
    ],
)
def test_texts_end_where_rotary_frequencies_would_change(tmp_path: Path, changes: Any):
    assert read_spec(model(tmp_path, CONFIG | changes), "tiny").max_positions == 40


@pytest.mark.parametrize("rope", [None, 7, [], {}, {"rope_type": "dynamic", "factor": 2.0}])
def test_other_rotary_embeddings_leave_the_length_as_it_is(tmp_path: Path, rope: Any):
    changed = model(tmp_path, CONFIG | {"rope_scaling": rope})
    assert read_spec(changed, "tiny").max_positions == 512


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
    assert revision_of(Path("/hub/snapshots/0123456789abcdef")) == "0123456789abcdef"


def test_elsewhere_the_revision_follows_the_files_a_gateway_has_too(tmp_path: Path):
    one, two = model(tmp_path / "one"), model(tmp_path / "two")
    assert revision_of(one) == revision_of(two)
    (two / "model.safetensors").write_bytes(b"only workers have this")
    assert revision_of(one) == revision_of(two)
    (two / "tokenizer.json").write_text("{}")
    assert revision_of(one) != revision_of(two)
