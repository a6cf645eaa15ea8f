"""A pruned transformers causal LM, run through the model's own forward.

When it runs, every entry of the block list is a Slot. The slot before the active span puts in the
hidden states that came over the wire, the slots of the span run their block, the one after it
takes the result out; all others pass through. What the forward does at its ends (scaling,
norms) can therefore not leak into a middle span.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PretrainedConfig, PreTrainedModel

from shared.model_files import unchanging_positions
from shared.swarm import Span
from shared.wire.messages import MAX_POSITION
from worker import attention, fused_qkv
from worker.attention import CachesFilled
from worker.families import BATCHED, Verdict
from worker.half_linear import HalfLinear
from worker.kv_cache import PAGE_TOKENS, Segment, Slab, position_ids
from worker.own_cache import OwnCache
from worker.packing import Packing, packing_of
from worker.pruning import install_slots
from worker.quantization import weight_bytes
from worker.reading import Tap
from worker.taps import Taps
from worker.tensors import to_device


class SpanModel:
    """Runs steps of sessions through the blocks of `span`, or through a part of them."""

    def __init__(self, model: PreTrainedModel, span: Span, verdict: Verdict = BATCHED) -> None:
        self.span = span
        self.has_own_caches = verdict.state != "batched"
        self.batches = verdict.state == "batched"
        self.config: Any = model.config.get_text_config()
        self.num_blocks: int = self.config.num_hidden_layers
        self.hidden_size: int = self.config.hidden_size
        most: int = getattr(self.config, "max_position_embeddings", None) or MAX_POSITION
        self.max_positions = unchanging_positions(self.config.to_dict(), most)
        self.vocab_size: int = self.config.vocab_size
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self._verdict = verdict
        self._model: Any = model
        base: Any = model.base_model  # llama4's prefix is another class's: it finds itself
        self._base: Any = base.model if base is model else base
        self._base_takes = signature(self._base.forward).parameters
        self._model_takes = signature(self._model.forward).parameters
        takes_params = "cache_params" in self._base_takes
        self._cache_name = "cache_params" if takes_params else "past_key_values"
        self._slots = install_slots(model, span)
        self._taps = Taps(self._slots, self._base, self.device)
        if verdict.state == "batched":
            _use_our_attention(model)
        model.eval()
        self._learn_what_blocks_return()

    @property
    def weight_bytes(self) -> int:
        """Memory of the span's weights."""
        return weight_bytes(self._model)

    @property
    def packing(self) -> Packing | None:
        """How linear layers have been packed for this processor; None where they have not."""
        return packing_of(self._model)

    @property
    def weight_itemsize(self) -> int:
        """Bytes of an element of a large weight that is not quantized."""
        return HalfLinear.itemsize if self.packing is HalfLinear else self.dtype.itemsize

    @torch.inference_mode()
    def run(
        self, inputs: Tensor, segments: list[Segment], active: Span, keep: Sequence[int]
    ) -> Tensor:
        """One forward over all segments' tokens; over one segment unless the model `batches`.

        `inputs` is token ids [total_tokens] where `active` starts at block 0, else hidden states
        [total_tokens, hidden_size]. Returns hidden states of the same shape, or, where `active`
        ends with the model and `keep` names rows, those rows' logits [len(keep), vocab_size].
        Raises StepRefused when a segment's cache cannot be rewound to its position.
        """
        if not self.has_own_caches:
            with attention.batch_of(segments):
                positions = position_ids(segments, self.device)
                return self._forward(inputs, positions, active, keep)
        (segment,) = segments
        return self._run_alone(inputs, segment, active, keep)

    @torch.inference_mode()
    def fill(self, inputs: Tensor, segments: list[Segment], active: Span) -> None:
        """As `run`, for what it leaves in the caches alone.

        Of the last block nothing is computed but its keys and values, where its attention is ours.
        """
        if self.has_own_caches:
            (segment,) = segments
            self._run_alone(inputs, segment, active, [])
            return
        with suppress(CachesFilled), attention.batch_of(segments, fill_to=active.end - 1):
            self._forward(inputs, position_ids(segments, self.device), active, [])

    def run_tapped(
        self,
        inputs: Tensor,
        segments: list[Segment],
        active: Span,
        keep: Sequence[int],
        tap: Tap,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """As `run`, and by block the rows of the states it is given that `tap` names.

        A block's own inputs can be had for the blocks after the first of `active`, up to the one
        that follows; block 0's where `active` starts there. The number of blocks stands for what
        comes out of the final norm.
        """
        with self._taps.opened(tap):
            out = self.run(inputs, segments, active, keep)
            return out, self._taps.take()

    def _run_alone(
        self, inputs: Tensor, segment: Segment, active: Span, keep: Sequence[int]
    ) -> Tensor:
        own = segment.cache.own if segment.position else None
        segment.cache.own = None  # until the step is done: a failed one leaves half a cache
        own = own or OwnCache(self._model.config, active)
        again = own.rewind(segment.position)
        if again is not None:
            self._run_on(again, own, active, [], is_new=False)
        own.remember(inputs)
        out = self._run_on(inputs, own, active, keep)
        segment.cache.own = own
        return out

    def _run_on(
        self,
        inputs: Tensor,
        own: OwnCache,
        active: Span,
        keep: Sequence[int],
        *,
        is_new: bool = True,
    ) -> Tensor:
        """Run what follows the cache, in one forward or, where a family cannot, in many."""
        at_once = self._verdict.continues or own.length == 0
        size = len(inputs) if at_once else 1
        outputs: list[Tensor] = []
        for start in range(0, len(inputs), size):
            rows = [row - start for row in keep if start <= row < start + size]
            positions = torch.arange(own.length, own.length + size, device=self.device)[None]
            part = inputs[start : start + size]
            self._taps.narrow(start, size if is_new else 0)
            out = self._forward(part, positions, active, rows, own.cache)
            own.length += size
            if rows or not keep:
                outputs.append(out)
        return torch.cat(outputs)

    def _forward(
        self,
        inputs: Tensor,
        positions: Tensor,
        active: Span,
        keep: Sequence[int],
        cache: Cache | None = None,
    ) -> Tensor:
        arguments = self._arguments(inputs, active)
        arguments |= {"position_ids": positions, "use_cache": cache is not None}
        arguments[self._cache_name] = cache
        ends = active.end == self.num_blocks
        if active != self._slots[0].active:
            for slot in self._slots:
                slot.active = active
        if ends and keep:
            return self._logits(arguments, keep)
        out = _call(self._base, self._base_takes, arguments)
        return out.last_hidden_state[0] if ends else self._take_out(active)[0]

    def _arguments(self, inputs: Tensor, active: Span) -> dict[str, Any]:
        if active.start == 0:
            return {"input_ids": to_device(inputs[None], self.device).long()}
        wire_in = to_device(inputs[None], self.device).to(self.dtype)
        self._slots[active.start - 1].wire_in = wire_in
        # the slot before the span replaces these; some forwards write to them in place
        dummy = torch.zeros(1, len(inputs), self.hidden_size, dtype=self.dtype, device=self.device)
        return {"inputs_embeds": dummy}

    def _logits(self, arguments: dict[str, Any], keep: Sequence[int]) -> Tensor:
        rows = to_device(torch.tensor(keep), self.device)
        if "logits_to_keep" not in self._model_takes:
            return _call(self._model, self._model_takes, arguments).logits[0][rows]
        arguments["logits_to_keep"] = rows
        return _call(self._model, self._model_takes, arguments).logits[0]

    def _take_out(self, active: Span) -> Tensor:
        slot = self._slots[active.end]
        out, slot.wire_out = slot.wire_out, None
        assert out is not None
        return out

    @torch.inference_mode()
    def _learn_what_blocks_return(self) -> None:
        """Run a token through the first block: is it a tensor that comes back, or a tuple?

        The slots must return the same. Where they do not yet, the forward may fail on the way.
        """
        active = Span(self.span.start, self.span.start + 1)
        returned: list[Any] = []
        failures: list[Exception] = []
        block: nn.Module = self._slots[active.start].block  # type: ignore[assignment]
        hook = block.register_forward_hook(lambda *call: returned.append(call[-1]))
        shape = (2,) if active.start == 0 else (2, self.hidden_size)
        for guess in (0, 2):
            for slot in self._slots:
                slot.num_returned = guess
            try:
                self.run(torch.zeros(shape), [Segment(Slab(PAGE_TOKENS), 0, 2)], active, [])
            except Exception as error:  # of any kind, when the guess is wrong
                failures.append(error)
            if returned:
                break
        hook.remove()
        if not returned:
            raise failures[0]
        is_tuple = isinstance(returned[0], tuple | list)
        for slot in self._slots:
            slot.num_returned = len(returned[0]) if is_tuple else 0
            slot.wire_out = None


def _call(module: Any, parameters: Mapping[str, Parameter], arguments: dict[str, Any]) -> Any:
    """Call a model with those arguments that its forward, which has these parameters, knows."""
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        arguments = {name: value for name, value in arguments.items() if name in parameters}
    return module(**arguments)


def _use_our_attention(model: PreTrainedModel) -> None:
    """Done on the loaded model, as some classes only know transformers' own names of attention."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            config._attn_implementation = attention.NAME
    fused_qkv.install(model)
