"""A session's cache in transformers' own form, for families that do not run on our attention."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig

from shared.errors import StepRefused
from shared.swarm import Span

REPLAY_TOKENS = 64
"""Steps of up to so many tokens can be rewound into by running a part of them again."""


_NOTHING = torch.empty(0)


class Before(NamedTuple):
    """How things stood before a step, and the step's inputs."""

    length: int
    inputs: Tensor
    states: list[dict[str, Any]]


class OwnCache:
    """What one session left behind in the blocks of `span`, and how far it may be rewound.

    Keys and values are cropped. States that every token changes cannot be: they are set back to
    before the last step, of which the part that stays runs again. That is what guessed tokens
    need, the only rewinds in a session that goes well.
    """

    def __init__(self, config: PretrainedConfig, span: Span) -> None:
        self.cache = DynamicCache(config=config)
        self.length = 0
        self._floor = 0
        self._before: Before | None = None
        self._layers = _alias_absent(self.cache, span)
        for layer in self._layers:
            if _has_window(layer):
                layer.activate_past_recording()  # without it a full window cannot be rewound

    def rewind(self, position: int) -> Tensor | None:
        """Forget what comes at and after `position`.

        Returns the inputs of the positions before it that are to be run again, if any. Raises
        StepRefused when it cannot be.
        """
        if position == self.length:
            return None
        before = self._before if self._changed() else Before(position, _NOTHING, [])
        if before is None or not max(before.length, self._floor) <= position < self.length:
            raise StepRefused(
                "position_gap", f"this model's cache cannot go from {self.length} to {position}"
            )
        self._crop(before.length)
        for layer, state in zip(self._changed(), before.states, strict=True):
            vars(layer).update(state)
        again = before.inputs[: position - before.length]
        return again if len(again) else None

    def remember(self, inputs: Tensor) -> None:
        """Note how things stand before a step of these inputs."""
        self._before = None
        if 1 < len(inputs) <= REPLAY_TOKENS:
            states = [copy.deepcopy(vars(layer)) for layer in self._changed()]
            self._before = Before(self.length, inputs, states)

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(_num_bytes(value) for layer in self._layers for value in vars(layer).values())

    def _changed(self) -> list[Any]:
        return [layer for layer in self._layers if not _is_croppable(layer)]

    def _crop(self, length: int) -> None:
        for layer in self._layers:
            if _is_croppable(layer):
                layer.crop(length - self.length)
        self.length = length
        # a window is cut to its working size by a crop: what lay before it is gone
        if any(map(_has_window, self._layers)):
            self._floor = length


def _alias_absent(cache: Any, span: Span) -> list[Any]:
    """Let absent blocks share an owned block's entry; the owned blocks' entries.

    Forwards ask the first entry of a kind for the session's length, whichever block it is of.
    """
    owned = cache.layers[span.start : span.end]
    by_kind = {_kind(layer): layer for layer in reversed(owned)}
    for index, layer in enumerate(cache.layers):
        if not span.start <= index < span.end:
            cache.layers[index] = by_kind.get(_kind(layer), layer)
    return owned


def _kind(layer: Any) -> tuple[type, int | None]:
    return type(layer), getattr(layer, "sliding_window", None)


def _has_window(layer: Any) -> bool:
    return bool(getattr(layer, "sliding_window", None))


def _is_croppable(layer: Any) -> bool:
    """Whether tokens can be taken from its end; a state of convolutions or recurrences is not."""
    return not hasattr(layer, "recurrent_states")


def _num_bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_num_bytes, value.values()))
    return getattr(value, "nbytes", 0)
