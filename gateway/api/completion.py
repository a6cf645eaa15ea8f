"""A completion on its way: the continuations of some prompts, without any wire format."""

import asyncio
import statistics
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from gateway.api.answer import Answer, Manner
from gateway.api.completing import Completing
from gateway.api.legacy_logprobs import Scored
from gateway.api.said import Text
from gateway.api.sampling import choice_seed
from gateway.generator import Token
from gateway.services import Services
from gateway.token_stream import TokenStream
from shared.errors import GenerationFailed


@dataclass(frozen=True)
class Piece:
    """More of a text; `scored` are the tokens that begin in it. The last has a finish reason."""

    text: str
    scored: tuple[Scored, ...] = ()
    finish_reason: str | None = None


class Continuation:
    """One text that a prompt goes on with; `echo` stands in front of it."""

    def __init__(
        self, services: Services, asked: Completing, prompt: tuple[int, ...], echo: str, index: int
    ) -> None:
        """It is the one of number `index` of its prompt."""
        request = asked.request
        self.finish_reason: str | None = None
        self.num_tokens = 0
        self.num_cached = 0
        self._has_begun = False
        self.logprobs: list[float] = []
        self._prompt = prompt
        self._echo = echo
        self._only_scores = not request.max_tokens
        self._num_scores = asked.sampling.num_prompt_logprobs
        self._plain = asked.model.plain
        most = asked.room_after(prompt)
        self._manner = Manner(
            stop_ids=asked.stop_ids,
            max_tokens=most,
            stops=tuple(request.stop),
            includes_stop=request.include_stop_str_in_output,
        )
        self._answer = self._new_answer()
        # where each token begins is asked of a decoder of its own, as stop strings hold text back
        self._decoder = self._plain.decoder_after(prompt)
        self._num_decoded = len(echo)
        self._starts: deque[tuple[Token, int]] = deque()
        timed = services.metrics.timed(self._source(asked, index), time.perf_counter())
        self.tokens = TokenStream(timed, stop_ids=asked.stop_ids, max_tokens=max(1, most))
        if asked.kept is not None:
            asked.kept.interrupt = self.tokens.interrupt

    def says(self, tokens: Sequence[Token]) -> Iterator[Piece]:
        """What was taken adds; nothing taken means that no more comes."""
        if not tokens:
            self._answer.ended()
        elif self._echo and not self._has_begun:
            self._has_begun = True
            yield Piece(self._echo, tuple(self._prompt_scores(tokens[0])))
        self.num_cached += sum(token.cached_tokens for token in tokens)
        if self._only_scores:
            self.finish_reason = "length"
        else:
            yield from self._continued(tokens)
        if self.finish_reason is not None:
            self.tokens.stop()
            yield Piece("", finish_reason=self.finish_reason)

    def _source(self, asked: Completing, index: int) -> AsyncGenerator[Token, None]:
        if asked.kept is not None:
            is_patient = not asked.request.stream
            ends = self._is_complete
            return asked.kept.tokens(asked.model.generator, ends=ends, is_patient=is_patient)
        seed = choice_seed(asked.sampling.seed, index)
        return asked.model.generator.generate(
            self._prompt,
            sampling=msgspec.structs.replace(asked.sampling, seed=seed),
            max_tokens=max(1, self._manner.max_tokens),
            stop_ids=asked.stop_ids,
        )

    def _is_complete(self, tokens: Sequence[Token]) -> bool:
        answer = self._new_answer()
        answer.feed(tokens)
        return answer.finish_reason is not None or (self._only_scores and bool(tokens))

    def _new_answer(self) -> Answer:
        return Answer(self._plain.decoder_after(self._prompt), self._manner)

    def _continued(self, tokens: Sequence[Token]) -> Iterator[Piece]:
        for token in tokens:
            if token.logprobs is not None:
                self.logprobs.append(token.logprobs.chosen)
                self._starts.append((token, self._num_decoded))
                self._num_decoded += len(self._decoder.feed(token.token_id))
        for said in self._answer.feed(tokens):
            if isinstance(said, Text):
                yield Piece(said.text, tuple(map(self._scored, said.tokens)))
        self.num_tokens = self._answer.num_tokens
        self.finish_reason = self._answer.finish_reason

    def _scored(self, token: Token) -> Scored:
        while (known := self._starts.popleft())[0] is not token:
            pass  # one without a text of its own
        return Scored(token.token_id, known[1], token.logprobs)

    def _prompt_scores(self, first: Token) -> Iterator[Scored]:
        if self._num_scores is None:
            return
        starts = self._plain.starts(self._prompt)
        told = (None, *first.prompt_logprobs)
        for token_id, start, one in zip(self._prompt, starts, told, strict=True):
            yield Scored(token_id, min(start, len(self._echo)), one)


class Completion:
    """All continuations of all prompts. Closing it stops what runs and frees its sessions."""

    def __init__(self, services: Services, asked: Completing) -> None:
        self.asked = asked
        num_tried = asked.request.num_tried
        self._continuations = [
            Continuation(services, asked, prompt, echo if asked.request.echo else "", number)
            for prompt, echo in zip(asked.prompts, asked.echoes, strict=True)
            for number in range(num_tried)
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def begin(self, seconds: float) -> None:
        """Wait for the first token, but no longer than `seconds`.

        Raises what a generation raised that failed before its first token.
        """
        first, *others = self._continuations
        await first.tokens.begin(seconds)
        for other in others:
            await other.tokens.begin(0)

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """What each continuation says, by its number, as it comes; ends when all have finished."""
        taking = {self._taking(index): index for index in range(len(self._continuations))}
        try:
            while taking:
                done, _ = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
                for index, task in sorted((taking.pop(task), task) for task in done):
                    for piece in self._continuations[index].says(task.result()):
                        yield index, piece
                    if self._continuations[index].finish_reason is None:
                        taking[self._taking(index)] = index
        finally:
            for task in taking:
                task.cancel()
            await asyncio.gather(*taking, return_exceptions=True)

    def best(self) -> list[int]:
        """The numbers of the `n` continuations of each prompt whose tokens are likeliest."""
        n, num_tried = self.asked.request.n, self.asked.request.num_tried
        chosen: list[int] = []
        for start in range(0, len(self._continuations), num_tried):
            tried = range(start, start + num_tried)
            chosen += sorted(tried, key=self._likelihood, reverse=True)[:n]
        return chosen

    @property
    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object: each prompt counts once, and what was made in vain counts too."""
        num_tried = self.asked.request.num_tried
        num_prompt_tokens = sum(map(len, self.asked.prompts))
        num_tokens = sum(one.num_tokens for one in self._continuations)
        first_of_each = self._continuations[::num_tried]
        num_cached = sum(one.num_cached for one in first_of_each)
        return {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_tokens,
            "total_tokens": num_prompt_tokens + num_tokens,
            "prompt_tokens_details": {"cached_tokens": num_cached},
        }

    def interrupt(self, failure: GenerationFailed) -> None:
        """End it as if it had failed."""
        for one in self._continuations:
            one.tokens.interrupt(failure)

    async def close(self) -> None:
        """End it, and wait until its sessions are freed and its slots returned."""
        for one in self._continuations:
            one.tokens.stop()
        await asyncio.gather(*(one.tokens.close() for one in self._continuations))

    def _taking(self, index: int) -> "asyncio.Task[list[Token]]":
        return asyncio.create_task(self._continuations[index].tokens.take())

    def _likelihood(self, index: int) -> float:
        logprobs = self._continuations[index].logprobs
        return statistics.fmean(logprobs) if logprobs else 0.0
