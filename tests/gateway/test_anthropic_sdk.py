"""Anthropic's own SDK, on a socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest

from shared.errors import GenerationFailed, NoRoute
from tests.fakes import END, FakeGenerator, tokens_of
from tests.gateway.conftest import served, services_around, until

ASK: Any = {
    "model": "acme/tiny",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hello"}],
}


def says(text: str = f"Hi 😀!{END}", **changes: Any) -> FakeGenerator:
    return FakeGenerator(tokens_of(text), **changes)


@asynccontextmanager
async def sdk_of(
    generator: FakeGenerator, *, max_retries: int = 0, **changes: Any
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with (
        served(services_around(generator, **changes)) as (url, _),
        anthropic.AsyncAnthropic(base_url=url, api_key="any", max_retries=max_retries) as sdk,
    ):
        yield sdk


async def test_the_sdk_gets_the_same_message_whole_and_streamed():
    async with sdk_of(says(), keep_alive_seconds=0.001) as sdk:
        whole = await sdk.messages.create(**ASK)
        async with sdk.messages.stream(**ASK) as stream:
            made = await stream.get_final_message()
    assert whole.content[0].text == made.content[0].text == "Hi 😀!"
    assert (made.stop_reason, made.usage) == (whole.stop_reason, whole.usage)


async def test_the_sdk_sees_errors_as_its_own_classes_with_their_request_id():
    async with sdk_of(says()) as sdk:
        with pytest.raises(anthropic.NotFoundError) as caught:
            await sdk.messages.create(**ASK | {"model": "x"})
        assert (caught.value.request_id or "").startswith("req_")
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            await sdk.messages.create(
                **ASK | {"messages": [{"role": "user", "content": "a" * 200}]}
            )


async def test_the_sdk_raises_what_failed_in_mid_stream():
    failing = says("Hi", failure=GenerationFailed("worker_lost", "blocks 8:16 were lost"))
    async with sdk_of(failing) as sdk:
        with pytest.raises(anthropic.APIStatusError, match="8:16"):
            async with sdk.messages.stream(**ASK) as stream:
                await stream.get_final_message()


async def test_the_sdk_comes_back_when_no_worker_is_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.api.errors.retry_headers", lambda *_: {"retry-after-ms": "1"})
    absent = FakeGenerator(failure=NoRoute("8:16"))
    async with sdk_of(absent, max_retries=2) as sdk:
        with pytest.raises(anthropic.APIStatusError, match="8:16"):
            await sdk.messages.create(**ASK)
    assert len(absent.calls) == 3


async def test_a_client_that_leaves_its_stream_frees_the_session():
    generator = says("Hi" * 20)
    async with sdk_of(generator) as sdk:
        async with sdk.messages.stream(**ASK) as stream:
            await anext(aiter(stream))
        await until(generator.closed.is_set)
