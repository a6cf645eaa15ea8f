import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.generator import Token
from gateway.token_stream import MAX_WAITING_TOKENS, TokenStream
from shared.errors import GenerationFailed, NoRoute
from shared.wire.messages import Sampling
from tests.fakes import FakeGenerator

STOP = 99


def stream(generator: FakeGenerator) -> TokenStream:
    stop_ids = frozenset({STOP})
    source = generator.generate((1,), sampling=Sampling(), max_tokens=1000, stop_ids=stop_ids)
    return TokenStream(source, stop_ids=stop_ids, max_tokens=1000)


async def all_of(tokens: TokenStream) -> list[int]:
    seen: list[int] = []
    while batch := await taken(tokens):
        seen += batch
    return seen


async def taken(tokens: TokenStream) -> list[int]:
    return [token.token_id for token in await tokens.take()]


async def test_tokens_come_in_order_and_none_at_the_end():
    async with stream(FakeGenerator([1, 2, STOP])) as tokens:
        assert await all_of(tokens) == [1, 2, STOP]
        assert await taken(tokens) == []


async def test_left_early_it_has_freed_the_session():
    generator = FakeGenerator([1], pauses={1: asyncio.Event()})
    async with stream(generator) as tokens:
        assert await taken(tokens) == [1]
    assert generator.closed.is_set()


async def test_a_failure_before_the_first_token_is_raised_by_begin():
    async with stream(FakeGenerator(failure=NoRoute("8:16"))) as tokens:
        with pytest.raises(NoRoute):
            await tokens.begin(9)


async def test_a_later_failure_is_raised_after_the_tokens_before_it():
    async with stream(FakeGenerator([1, 2], GenerationFailed("worker_lost", "x"))) as tokens:
        await tokens.begin(9)
        assert await taken(tokens) == [1, 2]
        with pytest.raises(GenerationFailed):
            await tokens.take()


async def test_begin_waits_no_longer_than_told_and_gives_nothing_up():
    pause = asyncio.Event()
    async with stream(FakeGenerator([1, STOP], pauses={0: pause})) as tokens:
        await tokens.begin(0.001)
        pause.set()
        assert await all_of(tokens) == [1, STOP]


async def test_an_interrupted_stream_fails_with_the_reason_given():
    async with stream(FakeGenerator([1], pauses={1: asyncio.Event()})) as tokens:
        assert await taken(tokens) == [1]
        tokens.interrupt(GenerationFailed("server_shutdown", "x"))
        with pytest.raises(GenerationFailed, match="x"):
            await tokens.take()


async def test_a_generation_does_not_run_away_from_its_reader():
    generator = FakeGenerator(range(1000, 2000))
    async with stream(generator) as tokens:
        await tokens.begin(9)
        for _ in range(2 * MAX_WAITING_TOKENS):
            await asyncio.sleep(0)
        assert len(await tokens.take()) == MAX_WAITING_TOKENS
        assert len(await all_of(tokens)) == 1000 - MAX_WAITING_TOKENS


@pytest.mark.parametrize("num_tokens", [1, 2])
async def test_closing_never_disturbs_the_freeing_of_a_session(num_tokens: int):
    freed, freeing, may_free = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def generate() -> AsyncGenerator[Token, None]:
        try:
            yield Token(STOP if num_tokens == 1 else 5)
            await asyncio.Event().wait()
        finally:
            freeing.set()
            await may_free.wait()
            freed.set()

    tokens = TokenStream(generate(), stop_ids=frozenset({STOP}), max_tokens=9)
    await tokens.take()
    tokens.stop()
    await freeing.wait()
    closing = asyncio.create_task(tokens.close())
    tokens.stop()
    may_free.set()
    await closing
    assert freed.is_set()


async def test_closed_before_it_began_it_never_asks_the_generator():
    generator = FakeGenerator([1])
    tokens = stream(generator)
    await tokens.close()
    assert generator.calls == []
    assert await taken(tokens) == []
