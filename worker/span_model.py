"""A transformers causal LM pruned to a span, run through the model's own forward.

Pruning happens inside `__init__`, before weights are loaded, so that transformers' own loader
does the rest: renamed keys, fused experts, tied embeddings, quantizers, buffers. The config is
never sliced, so block indices stay global and per-block settings need no care.

When it runs, every entry of the block list is a Slot. The slot before the active span puts in the
hidden states that came over the wire, the slots of the span run their block, the one after it
takes the result out; all others pass through. What the forward does at its ends (scaling,
norms) can therefore not leak into a middle span.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from shared.errors import ModelError
from shared.swarm import Span
from worker import attention
from worker.kv_cache import Segment, position_ids


class Slot(nn.Module):
    """One place in the block list: a block this worker hosts, or a stand-in for one it does not."""

    def __init__(self, index: int, block: nn.Module, *, hosted: bool) -> None:
        super().__init__()
        self.index = index
        self.active: Span | None = None
        self.wire_in: Tensor | None = None
        self.wire_out: Tensor | None = None
        if hosted:
            self.block = block
        else:
            # kept out of the module tree: a block on the meta device, asked only for attributes
            self.__dict__["block"] = block

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        span = self.active
        assert span is not None
        if span.start <= self.index < span.end:
            return self.block(*args, **kwargs)
        if self.index == span.start - 1:
            assert self.wire_in is not None
            return self.wire_in
        if self.index == span.end:
            self.wire_out = hidden
        return hidden

    def __getattr__(self, name: str) -> Any:
        """Forwards read settings off their blocks, e.g. `attention_type`: answer for the block."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "block" not in (*self.__dict__, *self._modules):
                raise
            block = self.__dict__.get("block") or self._modules["block"]
            return getattr(block, name)


class SpanModel:
    """Runs batches of sessions through the blocks of `span`, or through a part of them."""

    def __init__(self, model: PreTrainedModel, span: Span) -> None:
        self.span = span
        self.config: Any = model.config.get_text_config()
        self.num_blocks: int = self.config.num_hidden_layers
        self.hidden_size: int = self.config.hidden_size
        self.vocab_size: int = self.config.vocab_size
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self._model: Any = model
        self._base: Any = model.base_model
        self._slots = _install_slots(model, span)
        model.eval()

    @torch.inference_mode()
    def run(
        self, inputs: Tensor, segments: list[Segment], active: Span, keep: Sequence[int]
    ) -> Tensor:
        """One forward over all segments' tokens.

        `inputs` is token ids [total_tokens] where `active` starts at block 0, else hidden states
        [total_tokens, hidden_size]. Returns hidden states of the same shape, or, where `active`
        ends with the model and `keep` names rows, those rows' logits [len(keep), vocab_size].
        """
        self._prepare(inputs, active)
        ends = active.end == self.num_blocks
        arguments = self._arguments(inputs, segments, active)
        with attention.batch_of(segments):
            if ends and keep:
                rows = torch.tensor(keep, device=self.device)
                return self._model(**arguments, logits_to_keep=rows).logits[0]
            out = self._base(**arguments)
        if ends:
            return out.last_hidden_state[0]
        return self._take_out(active)[0]

    def _prepare(self, inputs: Tensor, active: Span) -> None:
        for slot in self._slots:
            slot.active = active
        if active.start > 0:
            self._slots[active.start - 1].wire_in = inputs[None].to(self.device, self.dtype)

    def _arguments(self, inputs: Tensor, segments: list[Segment], active: Span) -> dict[str, Any]:
        positions = position_ids(segments, self.device)
        if active.start == 0:
            ids = inputs[None].to(self.device, torch.long)
            return {"input_ids": ids, "position_ids": positions, "use_cache": False}
        # the slot before the span replaces these; some forwards write to them in place
        dummy = torch.zeros(1, len(inputs), self.hidden_size, dtype=self.dtype, device=self.device)
        return {"inputs_embeds": dummy, "position_ids": positions, "use_cache": False}

    def _take_out(self, active: Span) -> Tensor:
        slot = self._slots[active.end]
        out, slot.wire_out = slot.wire_out, None
        assert out is not None
        return out


def span_class(config: PretrainedConfig, span: Span) -> type[PreTrainedModel]:
    """The architecture's class, pruned to a span as it is built. Raises ModelError."""
    try:
        architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError as error:
        raise ModelError(f"model type {config.model_type!r} is no causal language model") from error

    def init(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        architecture.__init__(self, config, *args, **kwargs)
        prune(self, span)

    body = {"__init__": init, "__module__": architecture.__module__}
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


def block_list(model: PreTrainedModel) -> nn.ModuleList:
    """The model's list of transformer blocks: of all lists of that length, the heaviest."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(f"model type {model.config.model_type!r} has no list of {count} blocks")
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def _install_slots(model: PreTrainedModel, span: Span) -> list[Slot]:
    blocks = block_list(model)
    for index in range(span.start, span.end):
        blocks[index] = Slot(index, blocks[index], hosted=True)
    return list(blocks)  # type: ignore[arg-type]


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
