"""A generator for one request: what it makes waits for its turn and is put to its caller's account.

Only making tokens, or reading a text, takes a place. An answer that is told again from what was
kept, or that waits for another connection to end, holds none.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from gateway.admission import Admission
from gateway.generator import Generator, Token
from gateway.keys import Caller
from gateway.metrics import GatewayMetrics
from gateway.reader import Rows
from shared.wire.messages import Reading, Sampling


class AdmittedGenerator:
    """A Generator, see there; several generations of it are one request, such as its choices.

    `patience_seconds` is how long the client waits for its answer.
    """

    def __init__(
        self,
        generator: Generator,
        admission: Admission,
        metrics: GatewayMetrics,
        *,
        caller: Caller,
        model: str,
        patience_seconds: float | None = None,
    ) -> None:
        self._generator = generator
        self._admission = admission
        self._metrics = metrics
        self._caller = caller
        self._model = model
        self._patience_seconds = patience_seconds
        self._is_in = False
        self._prompts: set[tuple[int, ...]] = set()

    async def generate(
        self,
        prompt: tuple[int, ...],
        *,
        sampling: Sampling,
        max_tokens: int,
        stop_ids: frozenset[int],
        tenant: str = "",
        made: tuple[int, ...] = (),
    ) -> AsyncGenerator[Token, None]:
        """Raises RequestError 429 or 503 before the first token where it may not run."""
        if not made:
            self._charge(prompt)
        num_made = self._metrics.made_for(self._caller.name)
        async with self._slot():
            source = self._generator.generate(
                prompt,
                sampling=sampling,
                max_tokens=max_tokens,
                stop_ids=stop_ids,
                tenant=tenant or self._caller.tenant,
                made=made,
            )
            async with aclosing(source) as tokens:
                async for token in tokens:
                    self._admission.spend(self._caller, 1)
                    num_made.inc()
                    yield token

    async def read(self, text: tuple[int, ...], reading: Reading) -> dict[int, Rows]:
        """Raises RequestError 429 or 503 where it may not run."""
        self._charge(text)
        async with self._slot():
            return await self._generator.read(text, reading)

    @asynccontextmanager
    async def _slot(self) -> AsyncGenerator[None, None]:
        began = time.perf_counter()
        async with self._admission.slot(
            self._caller, self._model, patience_seconds=self._patience_seconds
        ):
            self._metrics.queue_seconds.observe(time.perf_counter() - began)
            yield

    def _charge(self, prompt: tuple[int, ...]) -> None:
        """A request counts once, and so does a prompt that several choices go on from."""
        if prompt in self._prompts:
            return
        self._prompts.add(prompt)
        if self._is_in:
            self._admission.spend(self._caller, len(prompt))
        else:
            self._admission.enter(self._caller, len(prompt))
            self._is_in = True
        self._metrics.read_for(self._caller.name, len(prompt))
