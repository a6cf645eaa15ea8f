"""Loads a span: only its tensors, from a directory of safetensors.

Which shards are needed is found before any is opened: every key of the checkpoint is renamed as
transformers' own loader would, and kept when it lands in the pruned model. A filtered index in a
directory of links then makes the stock loader open nothing else.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.utils import logging as transformers_logging

from shared.errors import ModelError
from shared.model_files import read_config
from shared.swarm import Span
from worker.packing import pack, widen_rows
from worker.packing_probe import best_packing
from worker.pruning import drop_unused_embedding, span_class
from worker.quantization import done_before, owner, settings_for
from worker.selftest import judge
from worker.settings import Quant
from worker.span_model import SpanModel

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_TEXT_KEYS = {
    r"^(model\.)?(language_model|text_model)\.model\.": "model.",
    r"^(model\.)?(language_model|text_model)\.lm_head\.": "lm_head.",
    r"^model\.(language_model|text_model)\.": "model.",
}
"""Where a multimodal checkpoint keeps its language model's tensors -> their own names."""

_HALVES = {"BF16": torch.bfloat16, "F16": torch.float16}

_CONFIG_ERRORS = (
    *(ArithmeticError, AttributeError, LookupError, OSError),
    *(RuntimeError, StrictDataclassError, TypeError, ValueError),
)
"""What transformers raises for a config with values it does not expect."""


class _Index(msgspec.Struct):
    """The part of a checkpoint's index that says where each tensor is: in a file beside it."""

    weight_map: dict[str, Annotated[str, msgspec.Meta(pattern=r"^[^/]+\.safetensors$")]]


_decode_index = msgspec.json.Decoder(_Index).decode


def load_span(
    directory: Path,
    span: Span,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    quant: Quant = "none",
    on_plan: Callable[[int, int], None] = lambda tensors, num_bytes: None,
    on_pack: Callable[[], None] = lambda: None,
) -> SpanModel:
    """The model in `directory` pruned to `span`; `dtype` None means the checkpoint's own.

    `on_plan` hears how many tensors and bytes are about to be read, `on_pack` when they have been
    and are about to be packed. Raises ModelError when files are missing or corrupt, the family is
    unknown, or the span is outside the model.
    """
    transformers_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    needed = needed_tensors(directory, span)
    config = load_config(directory)
    verdict = judge(config)
    skeleton = _skeleton(directory, span_class(config, span), config)
    quantization = settings_for(quant, config, skeleton, dtype)
    is_quantized = quantization is not None or bool(done_before(config))
    packs = verdict.packs and not is_quantized and (device is None or device.type == "cpu")
    # mapped from the file until they are packed, weights never stand in memory as float32
    widens = packs and dtype == torch.float32
    stored = _stored_dtype(directory, needed) if widens else None
    pruned = span_class(config, span, stored)
    on_plan(len(needed), tensor_bytes(directory, needed))
    with tempfile.TemporaryDirectory(prefix="brigade-span-") as scratch:
        _link_needed(directory, Path(scratch), needed)
        try:
            model, report = _load(pruned, Path(scratch), dtype, device, quantization)
        except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(
                f"{directory}: the checkpoint does not load: {_first_line(error)}"
            ) from error
    _check_report(directory, span, report)
    if span.start > 0:
        drop_unused_embedding(model)
    if packs:
        _compute_in(model, dtype or model.dtype, stored, on_pack)
    return SpanModel(model, span, verdict)


def needed_tensors(directory: Path, span: Span) -> dict[str, str]:
    """The tensors that `span` loads and the file each is in.

    Opens the config, and the index or the single file's header. Raises ModelError.
    """
    config = load_config(directory)
    _check_span(directory, config, span)
    skeleton = _skeleton(directory, span_class(config, span), config)
    return needed_keys(skeleton, weight_map(directory), _text_keys(directory))


def load_config(directory: Path) -> PretrainedConfig:
    """The model's config. Raises ModelError when it is missing or of a family not served."""
    model_type = read_config(directory).get("model_type")
    try:
        # Unless it is False, transformers asks on the terminal whether to run the model's code.
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        config = config.get_text_config()
    except _CONFIG_ERRORS as error:
        raise _unusable_config(directory, error) from error
    verdict = judge(config)
    if verdict.state == "refused":
        raise ModelError(f"{directory}: model type {model_type!r} is not served: {verdict.reason}")
    return config


def weight_map(directory: Path) -> dict[str, str]:
    """Which file holds each tensor of a checkpoint. Raises ModelError."""
    index = directory / INDEX
    try:
        if index.exists():
            return _decode_index(index.read_bytes()).weight_map
        return dict.fromkeys(read_header(directory / SINGLE), SINGLE)
    except FileNotFoundError as error:
        pickled = sorted(p.name for p in directory.glob("*.bin"))
        hint = f" ({pickled[0]} is a pickle and never loaded: convert it)" if pickled else ""
        raise ModelError(
            f"{directory} holds no {SINGLE} nor {INDEX}; fetch the model again{hint}"
        ) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{index} does not read ({error}); fetch it again") from error


def needed_keys(
    skeleton: PreTrainedModel, weights: dict[str, str], key_mapping: dict[str, str] | None = None
) -> dict[str, str]:
    """The part of a weight map that a pruned model loads from."""
    conversions = get_model_conversion_mapping(skeleton, key_mapping)
    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    converters = [c for c in conversions if isinstance(c, WeightConverter)]
    state = skeleton.state_dict()
    prefix = skeleton.base_model_prefix

    def is_needed(key: str) -> bool:
        key = owner(key)
        renamed, _ = rename_source_key(key, renamings, converters, prefix, state)
        return renamed in state or key in state

    return {key: file for key, file in weights.items() if is_needed(key)}


def tensor_bytes(directory: Path, needed: dict[str, str]) -> int:
    """The size of the needed tensors on disk, from the shards' headers. Raises ModelError."""
    offsets = [entry["data_offsets"] for entry in _entries(directory, needed)]
    return sum(end - begin for begin, end in offsets)


def _entries(directory: Path, needed: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What headers say of the needed tensors. Raises ModelError."""
    for shard in sorted(set(needed.values())):
        try:
            header = read_header(directory / shard)
        except FileNotFoundError as error:
            raise ModelError(
                f"shard {directory / shard} is missing; fetch the model again"
            ) from error
        yield from (entry for key, entry in header.items() if key in needed)


def read_header(shard: Path) -> dict[str, Any]:
    """A safetensors header (https://github.com/huggingface/safetensors#format), bounds checked.

    Raises ModelError when the file is corrupt, FileNotFoundError when there is none.
    """
    try:
        with safe_open(shard, "pt"):
            pass  # the library checks the header against the file's size
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"shard {shard} is corrupt ({error}); fetch it again") from error
    header.pop("__metadata__", None)
    return header


def _link_needed(directory: Path, scratch: Path, needed: dict[str, str]) -> None:
    for name in {"config.json", "generation_config.json", *needed.values()}:
        if (directory / name).exists():
            (scratch / name).symlink_to((directory / name).resolve())
    if needed and set(needed.values()) != {SINGLE}:
        (scratch / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": needed}))


def _load(
    pruned: type[PreTrainedModel],
    scratch: Path,
    dtype: torch.dtype | None,
    device: torch.device | None,
    quantization: BitsAndBytesConfig | None,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    is_quantized = quantization is not None or "quantization_config" in read_config(scratch)
    loaded: Any = pruned.from_pretrained(
        scratch,
        dtype=dtype or "auto",
        quantization_config=quantization,
        device_map={"": device or "cpu"} if is_quantized else None,
        key_mapping=_text_keys(scratch),
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the report
    )
    model, report = loaded
    if is_quantized or device is None:
        return model, report  # bitsandbytes' weights were read to where they stay
    return model.to(device), report


def _compute_in(
    model: PreTrainedModel,
    dtype: torch.dtype,
    stored: torch.dtype | None,
    on_pack: Callable[[], None],
) -> None:
    """Make all of a model compute in `dtype`, in place, where weights were loaded as `stored`."""
    if packing := best_packing(model, dtype):
        on_pack()
        pack(model, packing, dtype)
    table: Any = model.get_input_embeddings()
    if type(table) is nn.Embedding and table.weight.dtype == stored:
        widen_rows(table, dtype)
    for parameter in model.parameters():
        if parameter.dtype == stored:
            parameter.data = parameter.to(dtype)


def _stored_dtype(directory: Path, needed: dict[str, str]) -> torch.dtype | None:
    """What all matrices of a checkpoint are stored in, if that is one dtype of 16 bits.

    Raises ModelError.
    """
    entries = _entries(directory, needed)
    found = {entry["dtype"] for entry in entries if len(entry["shape"]) > 1}
    return _HALVES.get(found.pop()) if len(found) == 1 else None


def _text_keys(directory: Path) -> dict[str, str] | None:
    return _TEXT_KEYS if "text_config" in read_config(directory) else None


def _check_report(directory: Path, span: Span, report: dict[str, Any]) -> None:
    """Raises ModelError when not every tensor of the span was read."""
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"{directory}: tensor {name} is {list(found)}, but config.json makes it "
            f"{list(expected)}; fetch the model again"
        )
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:4])
        raise ModelError(
            f"{directory}: the checkpoint lacks tensors of blocks {span}: {missing}; "
            "fetch the model again"
        )


def _skeleton(
    directory: Path, pruned: type[PreTrainedModel], config: PretrainedConfig
) -> PreTrainedModel:
    """The pruned model without memory for its tensors. Raises ModelError."""
    try:
        with torch.device("meta"):
            return pruned(config)
    except _CONFIG_ERRORS as error:
        raise _unusable_config(directory, error) from error


def _check_span(directory: Path, config: PretrainedConfig, span: Span) -> None:
    num_blocks: int = config.num_hidden_layers
    if span.end > num_blocks:
        raise ModelError(
            f"blocks {span} are outside {directory}, which has 0:{num_blocks}; "
            "choose other --blocks"
        )


def _unusable_config(directory: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{directory / 'config.json'}: transformers cannot use it: {_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
