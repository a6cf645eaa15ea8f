"""The application on a socket: the official SDK, clients that hang up, a server told to stop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from gateway.admission import Admission
from shared.errors import GenerationFailed, NoRoute
from tests.fakes import END, FakeGenerator, tokens_of
from tests.gateway.conftest import served, services_around, until

MODEL = "acme/tiny"
MESSAGES: Any = [{"role": "user", "content": "hello"}]
ASK: Any = {"model": MODEL, "messages": MESSAGES}


def says(text: str = f"Hi 😀!{END}", **changes: Any) -> FakeGenerator:
    return FakeGenerator(tokens_of(text), **changes)


@asynccontextmanager
async def sdk_of(
    generator: FakeGenerator, *, max_retries: int = 0, **changes: Any
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        served(services_around(generator, **changes)) as (url, _),
        openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=max_retries) as sdk,
    ):
        yield sdk


async def test_the_sdk_gets_a_whole_answer_with_its_request_id():
    async with sdk_of(says()) as sdk:
        answer = await sdk.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "Hi 😀!"
    assert answer._request_id is not None


async def test_the_sdk_gets_a_stream_with_usage_last():
    async with sdk_of(says()) as sdk:
        stream = await sdk.chat.completions.create(
            **ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hi 😀!"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(tokens_of(f"Hi 😀!{END}"))


async def test_the_sdks_stream_helper_makes_the_same_message():
    async with (
        sdk_of(says(), keep_alive_seconds=0.001) as sdk,
        sdk.chat.completions.stream(
            model=MODEL, messages=MESSAGES, stream_options={"include_usage": True}
        ) as stream,
    ):
        async for _ in stream:
            pass
        answer = await stream.get_final_completion()
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", "Hi 😀!")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None


async def test_the_sdk_sees_models_and_errors_as_its_own_classes():
    async with sdk_of(says()) as sdk:
        assert [model.id async for model in sdk.models.list()] == [MODEL]
        assert (await sdk.models.retrieve(MODEL)).id == MODEL
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await sdk.chat.completions.create(model="x", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.chat.completions.create(**ASK, temperature=9)
        assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")


async def test_the_sdk_raises_what_failed_in_mid_stream():
    failing = says("Hi", failure=GenerationFailed("worker_lost", "blocks 8:16 were lost"))
    async with sdk_of(failing) as sdk:
        stream = await sdk.chat.completions.create(**ASK, stream=True)
        with pytest.raises(openai.APIError, match="8:16 were lost") as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "worker_lost"


async def test_the_sdk_retries_when_no_worker_is_there_but_not_what_cost_tokens(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("gateway.api.errors.retry_headers", without_waiting)
    absent = FakeGenerator(failure=NoRoute("8:16"))
    async with sdk_of(absent, max_retries=2) as sdk:
        with pytest.raises(openai.InternalServerError, match="8:16"):
            await sdk.chat.completions.create(**ASK)
    assert len(absent.calls) == 3
    lost = says("Hi", failure=GenerationFailed("worker_lost", "x"))
    async with sdk_of(lost, max_retries=2) as sdk:
        with pytest.raises(openai.InternalServerError):
            await sdk.chat.completions.create(**ASK)
    assert len(lost.calls) == 1


def without_waiting(rule: Any, _: float) -> dict[str, str]:
    return {"retry-after-ms": "1"} | ({"x-should-retry": "false"} if rule.is_final else {})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("silent_at", [0, 1])
async def test_a_client_that_hangs_up_frees_session_and_slot_at_once(stream: bool, silent_at: int):
    generator = says(pauses={silent_at: asyncio.Event()})
    admission = Admission(max_streams=1, max_waiting=0)
    services = services_around(generator, admission=admission, keep_alive_seconds=0)
    async with served(services) as (url, _), httpx.AsyncClient(base_url=url) as client:
        asking = asyncio.create_task(
            client.post("/v1/chat/completions", json=ASK | {"stream": stream})
        )
        await generator.started.wait()
        asking.cancel()
        await until(lambda: generator.closed.is_set() and not admission.num_running, seconds=1)


async def test_a_client_that_hangs_up_in_the_queue_leaves_it():
    admission = Admission(max_streams=1, max_waiting=1)
    services = services_around(says(), admission=admission)
    async with (
        served(services) as (url, _),
        httpx.AsyncClient(base_url=url) as client,
        admission.slot(),
    ):
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=ASK))
        await until(lambda: admission.num_waiting)
        asking.cancel()
        await until(lambda: not admission.num_waiting)


async def test_the_first_frames_come_before_the_answer_is_complete():
    pause = asyncio.Event()
    async with sdk_of(says(pauses={2: pause})) as sdk:
        stream = await sdk.chat.completions.create(**ASK, stream=True)
        seen = ""
        while seen != "Hi":
            seen += (await anext(stream)).choices[0].delta.content or ""
        pause.set()
        rest = [chunk async for chunk in stream]
    assert rest[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(("grace_seconds", "ends_well"), [(0.0, False), (30.0, True)])
async def test_a_server_told_to_stop_lets_streams_end_or_says_that_it_cut_them(
    grace_seconds: float, ends_well: bool
):
    pause = asyncio.Event()
    services = services_around(says(pauses={1: pause}), shutdown_grace_seconds=grace_seconds)
    async with (
        served(services) as (url, server),
        httpx.AsyncClient(base_url=url) as client,
        client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        server.should_exit = True
        if ends_well:
            pause.set()
        text = "\n".join([line async for line in lines])
    assert text.rstrip().endswith("data: [DONE]")
    assert ('"finish_reason":"stop"' in text) is ends_well
    assert ('"code":"server_shutdown"' in text) is not ends_well


async def test_head_is_answered_without_a_body():
    async with served(services_around(says())) as (url, _), httpx.AsyncClient() as client:
        for _ in range(2):
            response = await client.head(url + "/v1/models")
            assert (response.status_code, response.content) == (200, b"")
