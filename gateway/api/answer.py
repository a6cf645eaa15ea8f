"""What one generation has said so far. Pure: token ids in, text out, for both kinds of answer."""

from collections.abc import Iterable
from typing import Any, Literal

from gateway.text import Decoder, StopMatcher
from shared.errors import GenerationFailed

FinishReason = Literal["stop", "length"]


class Answer:
    """Turns token ids into the text to deliver, the finish reason and the usage."""

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
        self._decoder = decoder
        self._matcher = StopMatcher(stops)
        self._stop_ids = stop_ids
        self._max_tokens = max_tokens
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens = 0

    def feed(self, token_ids: Iterable[int]) -> str:
        """The text these tokens add. Those after the finish are ignored."""
        return "".join(map(self._feed_one, token_ids))

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
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def _feed_one(self, token_id: int) -> str:
        if self.finish_reason is not None:
            return ""
        self._num_tokens += 1
        if token_id in self._stop_ids:
            return self._finish("stop")
        text = self._matcher.feed(self._decoder.feed(token_id))
        if self._matcher.is_matched:
            self.finish_reason = "stop"
        elif self._num_tokens == self._max_tokens:
            return text + self._finish("length")
        return text

    def _finish(self, reason: FinishReason) -> str:
        """The rest of the text; a character cut in two may still complete a stop string."""
        text = self._matcher.feed(self._decoder.flush()) + self._matcher.flush()
        self.finish_reason = "stop" if self._matcher.is_matched else reason
        return text
