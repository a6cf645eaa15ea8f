"""A generation running in a task of its own; its tokens wait here until they are taken.

One task, because a generator with timeouts inside must not be entered by one task and left by
another, and because waiting for a token with a time limit must not cancel the generation.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final, Self

from gateway.generator import Token
from shared.errors import GenerationFailed

MAX_WAITING_TOKENS: Final = 64
"""How far a generation may run ahead of a client that reads slowly."""


class TokenStream:
    """Runs `source` from the moment it is made until the end, stop() or close()."""

    def __init__(
        self,
        source: AsyncGenerator[Token, None],
        *,
        stop_ids: frozenset[int],
        max_tokens: int,
    ) -> None:
        self._source = source
        self._stop_ids = stop_ids
        self._max_tokens = max_tokens
        self._waiting: list[Token] = []
        self._loop = asyncio.get_running_loop()
        self._taker: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._is_closing = False
        self._is_over = False
        self._failure: Exception | None = None
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def begin(self, seconds: float) -> None:
        """Wait for the first token, but no longer than `seconds`.

        Raises what the generation raised if it failed before its first token.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if not (self._waiting or self._is_over):
                    await self._news()
        if self._failure is not None and not self._waiting:
            raise self._failure

    async def take(self) -> list[Token]:
        """The tokens that wait, at least one; none at the end.

        Raises what the generation raised, once its tokens are taken.
        """
        if not (self._waiting or self._is_over):
            await self._news()
        tokens, self._waiting = self._waiting, []
        if len(tokens) >= MAX_WAITING_TOKENS:
            self._room.set()
        if self._failure is not None and not tokens:
            raise self._failure
        return tokens

    def stop(self) -> None:
        """No more tokens are wanted. The session is freed in the background."""
        # Once only, and not while the generator ends by itself: a second cancellation would
        # reach into the freeing of the session.
        if not self._is_closing:
            self._is_closing = True
            self._task.cancel()

    def interrupt(self, failure: GenerationFailed) -> None:
        """End the generation as if it had failed."""
        self._failure = failure
        self.stop()

    async def close(self) -> None:
        """Stop, and wait until the session is freed and its place is another's."""
        self.stop()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        async with aclosing(self._source) as source:
            num_tokens = 0
            async for token in source:
                num_tokens += 1
                self._waiting.append(token)
                self._wake()
                if token.token_id in self._stop_ids or num_tokens == self._max_tokens:
                    break
                while len(self._waiting) >= MAX_WAITING_TOKENS:
                    self._room.clear()
                    await self._room.wait()
            self._is_closing = True

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._failure = error
        self._is_over = True
        self._wake()

    def _news(self) -> asyncio.Future[None]:
        """Done when tokens wait, or the generation is over. An event would take longer."""
        self._taker = self._loop.create_future()
        return self._taker

    def _wake(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)
