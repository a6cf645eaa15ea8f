"""Where a model's files are and what its config says. Opens no tensor."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from shared.errors import ModelError
from shared.hub import HubModel, fetch_text
from shared.swarm import MAX_BLOCKS, ModelSpec

BUNDLED = Path(__file__).parent / "bundled"
BUNDLED_NAME = "brigade-tiny"

_REVISION_FILES = ("config.json", "tokenizer.json", "model.safetensors.index.json")

# The names under which transformers' configs keep the same number.
_NUM_BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN_SIZE = ("hidden_size", "n_embd", "d_model")
_MAX_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")

_CHANGING = ("longrope", "su")
"""Rotary embeddings that begin to turn at other frequencies, for the text before too, once a text
is longer than those the model was first trained on."""


def locate(model: str) -> Path:
    """The directory of a model's config and tokenizer: the bundled one for "", a path's, a hub's.

    Weights lie there too, unless the model comes from the hub. Raises ModelError when there is
    no such model.
    """
    if not model:
        return BUNDLED
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"model {model} is a file; name the directory that holds config.json")
    if on_hub := hub_model(model):
        return fetch_text(on_hub)
    raise ModelError(
        f"model {model}: no such directory, nor a hub id of the form OWNER/NAME or "
        "OWNER/NAME@REVISION"
    )


def hub_model(model: str) -> HubModel | None:
    """The model on the hub that an operator named; None when it is a directory, or none at all."""
    if model.startswith((".", "/", "~")) or Path(model).expanduser().exists():
        return None
    return HubModel.parse(model)


def name_of(model: str) -> str:
    """The name a model is served under when its operator gives none."""
    if not model:
        return BUNDLED_NAME
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve().name
    on_hub = hub_model(model)
    return on_hub.repo if on_hub else model


def read_spec(directory: Path, name: str) -> ModelSpec:
    """What gateway and workers must agree on. Raises ModelError when config.json is unusable."""
    config = read_config(directory)
    text = config.get("text_config") or config
    if not isinstance(text, dict):
        raise ModelError(f"{directory / 'config.json'}: text_config is not a JSON object")
    text = cast("dict[str, Any]", text)
    spec = ModelSpec(
        name=name,
        revision=revision_of(directory),
        num_blocks=_number(directory, text, _NUM_BLOCKS),
        hidden_size=_number(directory, text, _HIDDEN_SIZE),
        vocab_size=_number(directory, text, ("vocab_size",)),
        max_positions=unchanging_positions(
            text, _number(directory, text, _MAX_POSITIONS, default=2048)
        ),
    )
    if spec.num_blocks > MAX_BLOCKS:
        raise ModelError(f"{directory / 'config.json'}: {spec.num_blocks} blocks is not credible")
    return spec


def unchanging_positions(text: Mapping[str, Any], most: int) -> int:
    """How long texts may be, at most `most`, for what a worker keeps of them to stay right.

    Keys that were computed before such a change would have to be computed anew, all at once and
    on all workers; nor could sessions of both kinds share a forward. `text` is the config of a
    language model.
    """
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, dict):
        return most
    rope = cast("dict[str, Any]", rope)
    kinds: list[dict[str, Any]] = [rope, *(v for v in rope.values() if isinstance(v, dict))]
    key = "original_max_position_embeddings"
    originals = [
        text.get(key) or kind.get(key)
        for kind in kinds
        if kind.get("rope_type", kind.get("type")) in _CHANGING
    ]
    return min([most, *(size for size in originals if isinstance(size, int) and size > 0)])


def read_config(directory: Path) -> dict[str, Any]:
    """The parsed config.json. Raises ModelError."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(
            f"{directory} holds no config.json; name a directory that `save_pretrained` wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object")
    return cast("dict[str, Any]", config)


def revision_of(directory: Path) -> str:
    """A hub snapshot's commit, else a digest of the files that gateways and workers both have.

    Weights are not in it, as a gateway holds none: serve other weights under another name.
    """
    if directory.parent.name == "snapshots":
        return directory.name
    digest = hashlib.sha256()
    for name in _REVISION_FILES:
        path = directory / name
        if path.exists():
            digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _number(
    directory: Path, config: dict[str, Any], names: tuple[str, ...], *, default: int | None = None
) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    if default is None:
        raise ModelError(f"{directory / 'config.json'} has no usable {names[0]}")
    return default
