"""Whose generation may run, and when: turns, queues and allowances, with a clock."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from gateway.allowances import Allowance, Allowances
from gateway.keys import Caller
from gateway.turns import Full, Turn, Turns
from shared.errors import RequestError

NOBODY: Final = Caller("")


class Admission:
    """At most `max_streams` generations run; more wait, fairly, see gateway.turns.

    For each model `max_waiting` may wait, and for each key `max_waiting_each`.
    """

    def __init__(
        self,
        *,
        max_streams: int,
        max_waiting: int,
        max_waiting_each: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_streams = max_streams
        self.max_waiting = max_waiting
        self._max_waiting_each = max_waiting_each
        self._clock = clock
        self._allowances = Allowances()
        self._turns = Turns(max_running=max_streams, max_waiting=max_waiting)
        self._called: dict[Turn, asyncio.Event] = {}

    @property
    def num_running(self) -> int:
        """Generations that run."""
        return self._turns.num_running

    @property
    def num_waiting(self) -> int:
        """Generations that wait for their turn."""
        return self._turns.num_waiting

    def enter(self, caller: Caller, num_tokens: int) -> None:
        """A request with a prompt this long wants to come in. Raises RequestError 429."""
        if allowance := self._allowance(caller):
            allowance.enter(num_tokens, self._clock())

    def spend(self, caller: Caller, num_tokens: int) -> None:
        """So many tokens more were made, or read, for a request that is in."""
        if allowance := self._allowance(caller):
            allowance.spend(num_tokens, self._clock())

    def headers(self, caller: Caller) -> Mapping[str, str]:
        """What a caller is told of the limits that hold for them."""
        allowance = self._allowance(caller)
        return allowance.headers(self._clock()) if allowance else {}

    @asynccontextmanager
    async def slot(
        self, caller: Caller = NOBODY, model: str = "", *, patience_seconds: float | None = None
    ) -> AsyncGenerator[None, None]:
        """Holds a place for one generation, once it is its turn.

        Raises RequestError: 503 when too many wait for the model, 429 when too many of them are
        the caller's own, 503 when the turn has not come within `patience_seconds`.
        """
        turn = Turn(caller.name, model, caller.key.max_streams if caller.key else None)
        self._check_queue(turn, caller)
        self._turns.wait(turn)
        try:
            await self._called_up(turn, patience_seconds)
            yield
        finally:
            self._turns.end(turn)
            self._call_up()

    def has_spare_slot(self, caller: Caller) -> bool:
        """Whether a slot would be this caller's at once, and nobody waits."""
        most = caller.key.max_streams if caller.key else None
        return self._turns.has_spare(Turn(caller.name, "", most))

    def _allowance(self, caller: Caller) -> Allowance | None:
        return self._allowances.of(caller.key, self._clock()) if caller.key else None

    def _check_queue(self, turn: Turn, caller: Caller) -> None:
        each = self._max_waiting_each if caller.key else None
        match self._turns.why_full(turn, max_waiting=each):
            case Full.CALLER:
                raise RequestError(
                    f"The key {caller.name} has {each} requests waiting already. Please retry when "
                    "some of them are answered.",
                    reason="rate_limit_exceeded",
                    status=429,
                )
            case Full.MODEL:
                raise RequestError(
                    f"All {self.max_streams} slots are taken and {self.max_waiting} requests "
                    "wait. Please retry later.",
                    reason="server_is_overloaded",
                    status=503,
                )
            case None:
                pass

    async def _called_up(self, turn: Turn, patience_seconds: float | None) -> None:
        called = self._called[turn] = asyncio.Event()
        self._call_up()
        try:
            async with asyncio.timeout(patience_seconds):
                await called.wait()
        except TimeoutError as error:
            raise RequestError(
                f"No slot became free within the {patience_seconds:g} seconds that you wait for.",
                reason="server_is_overloaded",
                status=503,
            ) from error
        finally:
            del self._called[turn]

    def _call_up(self) -> None:
        while turn := self._turns.next():
            self._called[turn].set()
