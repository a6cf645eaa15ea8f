"""Cuts a transformers causal LM down to a span, before its weights are loaded.

Pruning happens inside `__init__`, so that transformers' own loader does the rest: renamed keys,
fused experts, tied embeddings, quantizers, buffers. The config is never sliced, so block indices
stay global and per-block settings need no care.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from shared.errors import ModelError
from shared.swarm import Span
from worker.packed_experts import projections


class Slot(nn.Module):
    """One place in the block list: a block this worker hosts, or a stand-in for one it does not."""

    def __init__(self, index: int, block: nn.Module, *, hosted: bool) -> None:
        super().__init__()
        self.index = index
        self.active: Span | None = None
        self.wire_in: Tensor | None = None
        self.wire_out: Tensor | None = None
        # what taps take: these rows of what comes in here, whether a block of ours takes it or not
        self.tap_rows: Tensor | None = None
        self.tapped: list[Tensor] = []
        # how many values this family's blocks return as a tuple; 0: the tensor alone
        self.num_returned = 0
        if hosted:
            self.block = block
        else:
            # kept out of the module tree: a block on the meta device, asked only for attributes
            self.__dict__["block"] = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        span = self.active
        assert span is not None
        if self.tap_rows is not None:
            self.tapped.append(hidden[0][self.tap_rows])  # a copy: some blocks write in place
        if span.start <= self.index < span.end:
            return self.block(*args, **kwargs)
        if self.index == span.start - 1:
            assert self.wire_in is not None
            hidden = self.wire_in
        if self.index == span.end:
            self.wire_out = hidden
        return (hidden, *[None] * (self.num_returned - 1)) if self.num_returned else hidden

    def __getattr__(self, name: str) -> Any:
        """Forwards read settings off their blocks, e.g. `attention_type`: answer for the block."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "block" not in (*self.__dict__, *self._modules):
                raise
            block = self.__dict__.get("block") or self._modules["block"]
            return getattr(block, name)


def span_class(
    config: PretrainedConfig, span: Span, stored_dtype: torch.dtype | None = None
) -> type[PreTrainedModel]:
    """The architecture's class, pruned to a span as it is built.

    Weights of linear layers and of the embedding are loaded as `stored_dtype`, where that is given,
    whatever the dtype of the rest. Raises ModelError.
    """
    try:
        architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError as error:
        raise ModelError(f"model type {config.model_type!r} is no causal language model") from error

    def init(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        architecture.__init__(self, config, *args, **kwargs)
        prune(self, span)

    def dtype_plan(self: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.dtype | None]:
        plan: dict[str, torch.dtype | None] = architecture._get_dtype_plan(self, dtype)
        names = "|".join(map(re.escape, _large_weights(self))) if stored_dtype else ""
        return {f"^(?:{names})$": stored_dtype, **plan} if names else plan

    body = {
        "__init__": init,
        "_get_dtype_plan": dtype_plan,
        "__module__": architecture.__module__,
    }
    return type(architecture.__name__, (architecture,), body)


def prune(model: PreTrainedModel, span: Span) -> None:
    """Drop from a model, in place, every module that no block of `span` needs."""
    blocks = block_list(model)
    num_blocks = len(blocks)
    for index in range(num_blocks):
        if not span.start <= index < span.end:
            blocks[index] = Slot(index, blocks[index], hosted=False)
    tied = bool(getattr(model, "all_tied_weights_keys", None))
    is_first, is_last = span.start == 0, span.end == num_blocks
    if not is_last:
        _replace(model, model.get_output_embeddings())
    if not is_first and not (tied and is_last):
        _replace(model, model.get_input_embeddings())
    _forget_lost_ties(model)


def drop_unused_embedding(model: PreTrainedModel) -> None:
    """Take the embedding off a loaded span that begins later: the head tied to it has its rows."""
    _replace(model, model.get_input_embeddings())


def block_list(model: PreTrainedModel) -> nn.ModuleList:
    """The model's list of transformer blocks: of all lists of that length, the heaviest."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(f"model type {model.config.model_type!r} has no list of {count} blocks")
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def install_slots(model: PreTrainedModel, span: Span) -> list[Slot]:
    """Put every block of the span into a slot of its own; all slots, in order."""
    blocks = block_list(model)
    for index in range(span.start, span.end):
        blocks[index] = Slot(index, blocks[index], hosted=True)
    return list(blocks)  # type: ignore[arg-type]


def _large_weights(model: PreTrainedModel) -> Iterator[str]:
    """Names of weights of plain linear layers, of experts, and of a plain embedding.

    A head tied to the embedding is loaded by the embedding's name.
    """
    tied = bool(getattr(model, "all_tied_weights_keys", None))
    head = model.get_output_embeddings() if tied else None
    embedding = model.get_input_embeddings()
    for name, module in model.named_modules():
        yield from (f"{name}.{projection}" for projection in projections(module))
        is_linear = type(module) is nn.Linear and module is not head
        if is_linear or (type(module) is nn.Embedding and module is embedding):
            yield f"{name}.weight"


class _Absent(nn.Module):
    """Stands for an embedding or head another worker holds; its tensor goes nowhere."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden

    @property
    def weight(self) -> Tensor:
        return torch.empty(0)


def _replace(model: nn.Module, absent: nn.Module | None) -> None:
    for name, module in list(model.named_modules()):
        if module is absent and absent is not None:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, _Absent())


def _forget_lost_ties(model: PreTrainedModel) -> None:
    """Keep only ties between parameters that are both still here."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for module in model.modules():
        ties = getattr(module, "all_tied_weights_keys", None)
        if ties:
            kept = {a: b for a, b in ties.items() if a in names and b in names}
            module.all_tied_weights_keys = kept if module is model else {}  # type: ignore[assignment]
