"""Which of the generations that wait runs next. Pure.

The caller with the fewest running comes first, so that however many one sends the places are
shared evenly; among equals the one that was served longest ago; of one caller first come, first
served. A caller who may run no more for now is passed over.
"""

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(eq=False)
class Turn:
    """One generation that runs or waits. `most` is how many its caller may run, none any number."""

    caller: str
    model: str
    most: int | None = None
    is_running: bool = False


class Full(Enum):
    """Why one may not even wait."""

    MODEL = auto()
    CALLER = auto()


class Turns:
    """At most `max_running` run; for each model at most `max_waiting` wait."""

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self.num_running = 0
        self.num_waiting = 0
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._waiting: dict[str, deque[Turn]] = {}
        self._of_model: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._served: dict[str, int] = {}
        self._num_served = 0

    def why_full(self, turn: Turn, *, max_waiting: int | None = None) -> Full | None:
        """What keeps it from waiting, if it had to; `max_waiting` is how many its caller may have.

        None when it can run at once, or wait.
        """
        if self._has_room(turn.caller, turn.most):
            return None
        if max_waiting is not None and len(self._waiting.get(turn.caller, ())) >= max_waiting:
            return Full.CALLER
        return Full.MODEL if self._of_model[turn.model] >= self._max_waiting else None

    def has_spare(self, turn: Turn) -> bool:
        """Whether it can run at once, and takes nobody's place."""
        return not self.num_waiting and self._has_room(turn.caller, turn.most)

    def wait(self, turn: Turn) -> None:
        """Take a place in the queue, also where it need not wait long."""
        self._waiting.setdefault(turn.caller, deque()).append(turn)
        self._of_model[turn.model] += 1
        self.num_waiting += 1

    def next(self) -> Turn | None:
        """The one that runs now, if any can."""
        ready = [
            caller
            for caller, turns in self._waiting.items()
            if self._has_room(caller, turns[0].most)
        ]
        if not ready:
            return None
        caller = min(ready, key=lambda one: (self._running[one], self._served.get(one, 0)))
        turn = self._waiting[caller][0]
        self._leave_queue(turn)
        turn.is_running = True
        self._running[caller] += 1
        self.num_running += 1
        self._num_served += 1
        self._served[caller] = self._num_served
        return turn

    def end(self, turn: Turn) -> None:
        """It runs no more, or does not wait any longer."""
        if turn.is_running:
            turn.is_running = False
            self.num_running -= 1
            self._running[turn.caller] -= 1
        else:
            self._leave_queue(turn)
        if not self._running[turn.caller] and turn.caller not in self._waiting:
            del self._running[turn.caller]
        if not self.num_running and not self.num_waiting:
            self._served.clear()

    def _has_room(self, caller: str, most: int | None) -> bool:
        is_free = self.num_running < self._max_running
        return is_free and (most is None or self._running[caller] < most)

    def _leave_queue(self, turn: Turn) -> None:
        self._waiting[turn.caller].remove(turn)
        self.num_waiting -= 1
        self._of_model[turn.model] -= 1
        if not self._of_model[turn.model]:
            del self._of_model[turn.model]
        if not self._waiting[turn.caller]:
            del self._waiting[turn.caller]
