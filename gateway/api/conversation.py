"""A chat completion on its way, without any wire format.

`/v1/chat/completions`, `/v1/responses` and `/v1/messages` are writers over it: each makes a chat
body of what it is asked, and its own frames of what is said. Errors are RequestErrors in OpenAI's
words; the other APIs translate them at their door.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final, Self

from starlette.requests import Request

from gateway.api.answer import Answer, FinishReason
from gateway.api.call import Call, accept
from gateway.api.door import caller_of
from gateway.api.manner import answer_of
from gateway.api.resume import Wish
from gateway.api.said import Said
from gateway.api.sampling import of_choice
from gateway.api.usage import usage_of
from gateway.generator import Token
from gateway.services import Services
from gateway.token_stream import TokenStream
from shared.errors import GenerationFailed
from shared.wire.messages import PREFIX_PAGE_TOKENS, Sampling

NO_WISH: Final = Wish(caller="")


@asynccontextmanager
async def open_conversation(
    services: Services, request: Request, chat_body: dict[str, Any]
) -> AsyncGenerator["Conversation", None]:
    """The conversation that a chat completion's body begins; ended when left.

    Raises RequestError for everything that can be wrong with the body, before any work.
    """
    async with await begin_conversation(services, request, chat_body) as conversation:
        yield conversation


async def begin_conversation(
    services: Services, request: Request, chat_body: dict[str, Any], wish: Wish = NO_WISH
) -> "Conversation":
    """The same for a response that outlives its handler: whoever has it owes it a close()."""
    call = await accept(services, caller_of(request), wish, chat_body)
    return Conversation(services, call)


class Choice:
    """One of the answers to a prompt, and the tokens it is made of."""

    def __init__(
        self, services: Services, call: Call, index: int, source: AsyncGenerator[Token, None]
    ) -> None:
        self.index = index
        self.answer = _answer(call, index)
        self._num_told = 0
        timed = services.metrics.timed(source, time.perf_counter())
        self.tokens = TokenStream(timed, stop_ids=call.stop_ids, max_tokens=call.max_tokens)
        if call.kept is not None:
            call.kept.interrupt = self.tokens.interrupt

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; none before it has."""
        return self.answer.finish_reason

    def fresh_ids(self) -> list[int]:
        """The ids of the tokens since this was asked last."""
        fresh = self.answer.token_ids[self._num_told :]
        self._num_told += len(fresh)
        return fresh

    def says(self, tokens: Sequence[Token]) -> list[Said]:
        """What was taken adds; nothing taken means that no more comes."""
        if not tokens:
            self.answer.ended()
        said = self.answer.feed(tokens)
        if self.finish_reason is not None:
            self.tokens.stop()
        return said


class Conversation:
    """The choices of one call. Closing it stops their generations and frees their sessions."""

    def __init__(self, services: Services, call: Call) -> None:
        self.call = call
        self.choices = [
            Choice(services, call, index, source) for index, source in enumerate(sources_of(call))
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object, as of now."""
        return usage_of([choice.answer for choice in self.choices], len(self.call.prompt))

    async def begin(self, seconds: float) -> None:
        """Wait for the first token, but no longer than `seconds`.

        Raises what the generation raised if it failed before its first token.
        """
        await self.choices[0].tokens.begin(seconds)

    async def said(self) -> AsyncGenerator[tuple[int, Said], None]:
        """What each choice, named by its index, says as it comes; ends when all have finished.

        What a client that comes back has seen already is left out. Raises GenerationFailed.
        """
        num_left_out = self.call.num_seen
        async with aclosing(self._taken()) as taking:
            async for choice, taken in taking:
                for said in self._said_by(choice, taken):
                    if num_left_out > 0:
                        num_left_out -= 1
                        choice.fresh_ids()
                    else:
                        yield choice.index, said

    async def _taken(self) -> AsyncGenerator[tuple[Choice, list[Token]], None]:
        """The tokens of each choice as they come, until all have finished."""
        if len(self.choices) == 1:
            (choice,) = self.choices
            while choice.finish_reason is None:
                yield choice, await choice.tokens.take()
            return
        taking = {asyncio.create_task(choice.tokens.take()): choice for choice in self.choices}
        try:
            while taking:
                done, _ = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    choice = taking.pop(task)
                    yield choice, task.result()
                    if choice.finish_reason is None:
                        taking[asyncio.create_task(choice.tokens.take())] = choice
        finally:
            for task in taking:
                task.cancel()

    def _said_by(self, choice: Choice, tokens: Sequence[Token]) -> Iterable[Said]:
        """One by one where events have names: what each stands for must not depend on timing."""
        if self.call.stream and tokens:
            return (said for token in tokens for said in choice.says([token]))
        return choice.says(tokens)

    def interrupt(self, failure: GenerationFailed) -> None:
        """End it as if it had failed."""
        for choice in self.choices:
            choice.tokens.interrupt(failure)

    async def close(self) -> None:
        """End it, and wait until its sessions are freed and its slots returned."""
        for choice in self.choices:
            choice.tokens.stop()
        await asyncio.gather(*(choice.tokens.close() for choice in self.choices))


def sources_of(call: Call) -> list[AsyncGenerator[Token, None]]:
    """Whatever makes the tokens of each choice.

    Choices begin once the prompt has been read once, so that all of them find its pages. A prompt
    whose own likelihood is asked for has no pages to find.
    """
    if call.kept is not None:
        is_patient = not call.request.stream
        ends = partial(_is_complete, call)
        return [call.kept.tokens(call.model.generator, ends=ends, is_patient=is_patient)]
    sources = [_source(call, index) for index in range(call.request.n)]
    has_pages = len(call.prompt) > PREFIX_PAGE_TOKENS and call.request.prompt_logprobs is None
    if len(sources) == 1 or not has_pages:
        return sources
    is_read = asyncio.Event()
    first, *others = sources
    return [_reading_first(call, is_read, first), *(_after(is_read, other) for other in others)]


def _source(call: Call, index: int) -> AsyncGenerator[Token, None]:
    return call.model.generator.generate(
        call.prompt,
        sampling=of_choice(call.sampling, index),
        max_tokens=call.max_tokens,
        stop_ids=call.stop_ids,
    )


async def _reading_first(
    call: Call, is_read: asyncio.Event, source: AsyncGenerator[Token, None]
) -> AsyncGenerator[Token, None]:
    """Read the prompt, and leave its pages to those that come."""
    reading = call.model.generator.generate(
        call.prompt, sampling=Sampling(temperature=0), max_tokens=1, stop_ids=frozenset()
    )
    try:
        async with aclosing(reading) as tokens:
            async for _ in tokens:
                pass
    finally:
        is_read.set()
    async with aclosing(source) as tokens:
        async for token in tokens:
            yield token


async def _after(
    is_read: asyncio.Event, source: AsyncGenerator[Token, None]
) -> AsyncGenerator[Token, None]:
    await is_read.wait()
    async with aclosing(source) as tokens:
        async for token in tokens:
            yield token


def _answer(call: Call, index: int = 0) -> Answer:
    return answer_of(
        call.model.text,
        call.parsed,
        prompt=call.prompt,
        stop_ids=call.stop_ids,
        max_tokens=call.max_tokens,
        answer_id=call.answer_id,
        index=index,
    )


def _is_complete(call: Call, tokens: Sequence[Token]) -> bool:
    answer = _answer(call)
    answer.feed(tokens)
    return answer.finish_reason is not None
