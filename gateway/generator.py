"""What the routes need of whatever makes tokens."""

from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from gateway.reader import Rows
from shared.wire.messages import Reading, Sampling, TokenLogprobs


class Token(msgspec.Struct, frozen=True, omit_defaults=True):
    """One token of an answer; `logprobs` where `Sampling.num_logprobs` asks for them.

    The first tells how many of the prompt's tokens workers still had from another generation, and
    how likely each of them but the first was where `Sampling.num_prompt_logprobs` asks for that.
    """

    token_id: int
    logprobs: TokenLogprobs | None = None
    cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


class Generator(Protocol):
    """Makes the tokens that follow a prompt; the swarm's own and the tests' fakes look alike."""

    def generate(
        self,
        prompt: tuple[int, ...],
        *,
        sampling: Sampling,
        max_tokens: int,
        stop_ids: frozenset[int],
        tenant: str = "",
        made: tuple[int, ...] = (),
    ) -> AsyncGenerator[Token, None]:
        """Tokens as they come; at most `max_tokens`, a stop id included as the last.

        A generation that is resumed goes on after the tokens `made` before, which count among
        `max_tokens` and are not given again. What is kept of one prompt serves others of the same
        `tenant` only.

        It ends by itself only there: an end without a stop id before `max_tokens` counts as a
        failure. Raises NoRoute before the first token, GenerationFailed(reason) later. Iterated
        from one task only. aclose(), which also follows the last token, or a cancellation while it
        waits for a token frees the session on every worker. Only one of the two comes, and once,
        so that the freeing itself is not disturbed.
        """
        ...

    async def read(self, text: tuple[int, ...], reading: Reading) -> dict[int, Rows]:
        """What is read of a text instead of going on with it: rows in the order of the positions
        asked for, by block; logits and means stand under the number of blocks.

        At least one position is asked for, and all are in the text. Raises as `generate` does. A
        cancellation frees the session on every worker.
        """
        ...
