"""Takes states out of a model's forwards on their way through the blocks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from worker.pruning import Slot
from worker.reading import Tap
from worker.tensors import to_device


class Taps:
    """The taps of one model, closed unless a forward is run inside `opened`."""

    def __init__(self, slots: Sequence[Slot], base: nn.Module, device: torch.device) -> None:
        self._slots = slots
        self._device = device
        self._tap: Tap = {}
        self._last_rows: Tensor | None = None
        self._last: list[Tensor] = []
        base.register_forward_hook(self._hear_last)

    @contextmanager
    def opened(self, tap: Tap) -> Iterator[None]:
        """Have the forwards inside leave the rows of `tap`, all of which `take` then gives."""
        self._tap = tap
        try:
            for block, rows in tap.items():
                self._aim(block, rows)
            yield
        finally:
            self._tap = {}
            for block in tap:
                self._aim(block, [])
            self.take()

    def narrow(self, start: int, size: int) -> None:
        """The next forward runs only `size` rows from `start` on of those the tap speaks of."""
        for block, rows in self._tap.items():
            self._aim(block, [row - start for row in rows if start <= row < start + size])

    def take(self) -> dict[int, Tensor]:
        """By block, the rows that were left, [rows, hidden_size]."""
        left: dict[int, list[Tensor]] = {}
        for slot in self._slots:
            left[slot.index], slot.tapped = slot.tapped, []
        left[len(self._slots)], self._last = self._last, []
        return {block: torch.cat(parts) for block, parts in left.items() if parts}

    def _aim(self, block: int, rows: list[int]) -> None:
        index = to_device(torch.tensor(rows), self._device) if rows else None
        if block < len(self._slots):
            self._slots[block].tap_rows = index
        else:
            self._last_rows = index

    def _hear_last(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._last_rows is not None:
            self._last.append(output.last_hidden_state[0][self._last_rows])
