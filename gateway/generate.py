"""Makes tokens by sending steps along routes of workers: the gateway's Generator."""

import hashlib
import os
from collections.abc import AsyncGenerator

from msgspec.structs import replace

from gateway.checkpoints import Checkpoints
from gateway.generation import Generation
from gateway.generator import Token
from gateway.links import Links
from gateway.means import Limits, Means
from gateway.metrics import GatewayMetrics
from gateway.prefixes import KnownPrefixes
from gateway.reader import Reader, Rows
from shared.swarm import ModelSpec
from shared.wire.messages import Reading, Sampling

SECRET_BYTES = 32


class SwarmGenerator:
    """Begins generations over the workers that `links` lead to."""

    def __init__(
        self,
        spec: ModelSpec,
        links: Links,
        checkpoints: Checkpoints,
        limits: Limits,
        metrics: GatewayMetrics | None = None,
    ) -> None:
        self._means = Means(
            spec, links, checkpoints, KnownPrefixes(), limits, metrics or GatewayMetrics()
        )
        self._secret = os.urandom(SECRET_BYTES)

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
        """See gateway.generator.Generator. Prefixes are reused within a `tenant` only."""
        generation = Generation(
            self._means,
            prompt,
            sampling=sampling,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            salt=hashlib.blake2b(tenant.encode(), key=self._secret).digest(),
            made=made,
        )
        is_first = True
        try:
            while not generation.is_over:
                for token in await generation.advance():
                    if is_first:
                        self._means.metrics.cached_tokens.inc(generation.num_reused)
                        token = replace(
                            token,
                            cached_tokens=generation.num_reused,
                            prompt_logprobs=generation.prompt_logprobs,
                        )
                        is_first = False
                    yield token
        finally:
            generation.close()

    async def read(self, text: tuple[int, ...], reading: Reading) -> dict[int, Rows]:
        """See gateway.generator.Generator."""
        reader = Reader(reading, self._means.spec)
        # what follows the last position that is asked for changes nothing before it
        generation = Generation(
            self._means,
            text[: reading.positions[-1] + 1],
            sampling=Sampling(),
            max_tokens=1,
            stop_ids=frozenset(),
            salt=b"",
            reader=reader,
        )
        try:
            while not generation.is_over:
                await generation.advance()
        finally:
            generation.close()
        self._means.metrics.read_tokens.inc(reading.positions[-1] + 1)
        return reader.rows
