"""What a step tells the last hop of how to choose its tokens, and what may come back. Pure."""

import math
from collections.abc import Sequence

import msgspec

from shared.errors import GenerationFailed
from shared.wire.codec import pack_ids
from shared.wire.messages import (
    MAX_CONTEXT_BYTES,
    Sampling,
    SamplingContext,
    Scores,
    Scoring,
    TokenLogprobs,
    Tokens,
)


class Contexts:
    """The contexts of one session's steps, which hold as much of its text as `sampling` reads."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._reads_text = sampling.reads_text
        self._start = len(prompt)
        self._prompt = pack_ids(sorted(set(prompt))) if sampling.reads_prompt else b""
        self._without_text = msgspec.msgpack.encode(SamplingContext(sampling, self._start))

    def context(
        self, tokens: Sequence[int], guesses: Sequence[int], scored: range = range(0)
    ) -> bytes:
        """For a step that samples after `tokens`, prompt and all, and after each of `guesses`, and
        scores those of the tokens whose positions are in `scored`.

        Raises GenerationFailed when the text has become too long to send along.
        """
        if not (self._reads_text or scored):
            return self._without_text
        generated = pack_ids([*tokens[self._start :], *guesses]) if self._reads_text else b""
        scoring = _scoring(tokens, scored) if scored else None
        context = msgspec.msgpack.encode(
            SamplingContext(self._sampling, self._start, generated, self._prompt, scoring)
        )
        if len(context) > MAX_CONTEXT_BYTES:
            raise GenerationFailed(
                "answer_too_long",
                f"an answer of {len(tokens) - self._start} tokens is too long for the penalties "
                "or the grammar that were asked for",
            )
        return context

    def is_answered(self, answer: Tokens, vocab_size: int) -> bool:
        """Whether an answer can be one to such a context."""
        most = self._sampling.num_logprobs
        if max(answer.token_ids) >= vocab_size:
            return False
        if most is None:
            return not answer.logprobs
        return len(answer.logprobs) == len(answer.token_ids) and all(
            _is_sane(told, most, vocab_size) for told in answer.logprobs
        )

    def is_scored(self, answer: Scores, vocab_size: int) -> bool:
        """Whether these can be the scores of a prompt that was to be scored."""
        most = self._sampling.num_prompt_logprobs
        return most is not None and all(
            _is_sane(told, most, vocab_size) and 1 <= told.rank <= vocab_size
            for told in answer.logprobs
        )


def _scoring(tokens: Sequence[int], scored: range) -> Scoring:
    return Scoring(scored.start, pack_ids(tokens[scored.start : scored.stop]))


def _is_sane(told: TokenLogprobs, most: int, vocab_size: int) -> bool:
    return (
        len(told.top) == len(told.top_ids) <= most
        and all(token_id < vocab_size for token_id in told.top_ids)
        and all(map(math.isfinite, (told.chosen, *told.top)))
    )
