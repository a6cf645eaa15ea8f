"""The mean of a text's last states, added up at the last hop as they are computed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import StepRefused
from worker.tensors import to_host


@dataclass(frozen=True)
class RunningSum:
    """The sum of the states of positions `[0, end)`, float64 [hidden_size].

    They are added one after the other, so that it does not matter where steps were cut.
    """

    end: int
    total: Tensor

    def mean(self, dimensions: int) -> Tensor:
        """The mean's first `dimensions` elements, all for 0, at length 1: float32 [1, ...].

        A mean of nothing but zeros stays what it is.
        """
        mean = (self.total / self.end)[: dimensions or None]
        length = torch.linalg.vector_norm(mean)
        return (mean / length if length > 0 else mean).float()[None]


def check_continues(before: RunningSum | None, position: int) -> None:
    """Raises StepRefused when a step at `position` cannot go on from a sum: 0 begins a new one."""
    if position and (before is None or before.end != position):
        raise StepRefused("position_gap", f"no sum of states reaches {position}", cached=0)


def added(before: RunningSum | None, position: int, states: Tensor) -> RunningSum:
    """The sum that goes on with `states` [count, hidden_size] from `position` on."""
    check_continues(before, position)
    rows = to_host(states).double()
    if before and position:
        rows = torch.cat((before.total[None], rows))
    return RunningSum(position + len(states), rows.cumsum(0)[-1])
