"""What one generation has said so far. Pure: tokens in, text out, for both kinds of answer."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from gateway.generator import Token
from gateway.text import Decoder, StopMatcher
from shared.errors import GenerationFailed
from shared.wire.messages import TokenLogprobs

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """Text to deliver, and of the tokens that came with logprobs those whose text begins in it.

    A token without a text of its own goes with the one after it.
    """

    text: str
    tokens: tuple[Token, ...] = ()


class Answer:
    """Turns tokens into the text to deliver, the finish reason and the usage."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        stops: tuple[str, ...],
        stop_ids: frozenset[int],
        max_tokens: int,
        num_prompt_tokens: int,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        self._decoder = decoder
        self._matcher = StopMatcher(stops)
        self._stop_ids = stop_ids
        self._max_tokens = max_tokens
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens = 0
        self._num_cached = 0
        self._num_decoded = 0
        self._num_delivered = 0
        self._untold: deque[tuple[int, Token]] = deque()

    @property
    def num_tokens(self) -> int:
        """How many tokens it is made of so far."""
        return self._num_tokens

    def feed(self, tokens: Iterable[Token]) -> Piece:
        """What these tokens add. Those after the finish are ignored."""
        text = "".join(map(self._feed_one, tokens))
        self._num_delivered += len(text)
        told: list[Token] = []
        while self._untold and self._untold[0][0] < self._num_delivered:
            told.append(self._untold.popleft()[1])
        return Piece(text, tuple(told))

    def ended(self) -> None:
        """The generation gives no more. Raises GenerationFailed when it had to."""
        if self.finish_reason is None:
            raise GenerationFailed(
                "generation_failed",
                f"The generation ended by itself after {self._num_tokens} tokens.",
            )

    @property
    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object; the completion counts every sampled id, a stop id too."""
        return {
            "prompt_tokens": self._num_prompt_tokens,
            "completion_tokens": self._num_tokens,
            "total_tokens": self._num_prompt_tokens + self._num_tokens,
            "prompt_tokens_details": {"cached_tokens": self._num_cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def _feed_one(self, token: Token) -> str:
        if self.finish_reason is not None:
            return ""
        self._num_tokens += 1
        self._num_cached += token.cached_tokens
        self.prompt_logprobs += token.prompt_logprobs
        if token.token_id in self._stop_ids:
            return self._finish("stop")
        if token.logprobs is not None:
            self._untold.append((self._num_decoded, token))
        text = self._match(self._decoder.feed(token.token_id))
        if self._matcher.is_matched:
            self.finish_reason = "stop"
        elif self._num_tokens == self._max_tokens:
            return text + self._finish("length")
        return text

    def _finish(self, reason: FinishReason) -> str:
        """The rest of the text; a character cut in two may still complete a stop string."""
        text = self._match(self._decoder.flush()) + self._matcher.flush()
        self.finish_reason = "stop" if self._matcher.is_matched else reason
        return text

    def _match(self, decoded: str) -> str:
        self._num_decoded += len(decoded)
        return self._matcher.feed(decoded)
