"""What one choice of an answer has said so far. Pure: tokens in, what they say out."""

from collections import deque
from collections.abc import Iterable
from typing import Literal

from gateway.api.said import Said, Text, joined
from gateway.generator import Token
from gateway.text import Decoder, StopMatcher
from shared.errors import GenerationFailed
from shared.wire.messages import TokenLogprobs

FinishReason = Literal["stop", "length", "tool_calls"]


class Answer:
    """Turns tokens into what they say and the finish reason, and counts them."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        stops: tuple[str, ...],
        stop_ids: frozenset[int],
        max_tokens: int,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        self.num_tokens = 0
        self.num_cached = 0
        self.num_thought_tokens = 0
        self._decoder = decoder
        self._matcher = StopMatcher(stops)
        self._stop_ids = stop_ids
        self._max_tokens = max_tokens
        self._num_decoded = 0
        self._num_delivered = 0
        self._untold: deque[tuple[int, Token]] = deque()

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended it, if one did."""
        return self._matcher.matched

    def feed(self, tokens: Iterable[Token]) -> list[Said]:
        """What these tokens add. Those after the finish are ignored."""
        return joined(said for token in tokens for said in self._feed_one(token))

    def ended(self) -> None:
        """The generation gives no more. Raises GenerationFailed when it had to."""
        if self.finish_reason is None:
            raise GenerationFailed(
                "generation_failed",
                f"The generation ended by itself after {self.num_tokens} tokens.",
            )

    def _feed_one(self, token: Token) -> list[Said]:
        if self.finish_reason is not None:
            return []
        self.num_tokens += 1
        self.num_cached += token.cached_tokens
        self.prompt_logprobs += token.prompt_logprobs
        if token.token_id in self._stop_ids:
            return self._told(self._finish("stop"))
        if token.logprobs is not None:
            self._untold.append((self._num_decoded, token))
        text = self._match(self._decoder.feed(token.token_id))
        if self._matcher.is_matched:
            self.finish_reason = "stop"
        elif self.num_tokens == self._max_tokens:
            text += self._finish("length")
        return self._told(text)

    def _told(self, text: str) -> list[Said]:
        if not text:
            return []
        self._num_delivered += len(text)
        told: list[Token] = []
        while self._untold and self._untold[0][0] < self._num_delivered:
            told.append(self._untold.popleft()[1])
        return [Text(text, tuple(told))]

    def _finish(self, reason: FinishReason) -> str:
        """The rest of the text; a character cut in two may still complete a stop string."""
        text = self._match(self._decoder.flush()) + self._matcher.flush()
        self.finish_reason = "stop" if self._matcher.is_matched else reason
        return text

    def _match(self, decoded: str) -> str:
        self._num_decoded += len(decoded)
        return self._matcher.feed(decoded)
