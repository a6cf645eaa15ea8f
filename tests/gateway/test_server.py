"""How a server stops: those who send it requests hear of it, and who is being answered is."""

import asyncio
import signal
from collections.abc import AsyncIterator

import httpx
import pytest
from sse_starlette.sse import AppStatus

from gateway.admission import Admission
from tests.fakes import END, FakeGenerator, tokens_of
from tests.gateway.conftest import served, services_around, until

ASK = {"model": "acme/tiny", "messages": [{"role": "user", "content": "hello"}]}
NUM_STREAMS = 200


def says(**changes: object) -> FakeGenerator:
    return FakeGenerator(tokens_of(f"Hi!{END}"), **changes)  # type: ignore[arg-type]


@pytest.fixture
async def signals(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """uvicorn raises again at its end what it caught: nobody else is to be hit by it."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(AppStatus, "should_exit", False)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: None)
    yield
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)


@pytest.mark.usefixtures("signals")
async def test_after_sigterm_it_is_not_ready_and_still_answers():
    async with (
        served(services_around(says()), drain_seconds=60) as (url, server),
        httpx.AsyncClient(base_url=url) as client,
    ):
        assert (await client.get("/ready")).status_code == 200
        signal.raise_signal(signal.SIGTERM)
        await until(server.is_stopping.is_set)
        async with httpx.AsyncClient(base_url=url) as stranger:
            refused = await stranger.get("/ready")
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "server_shutdown"
            assert (await stranger.get("/health")).status_code == 200
            assert (await stranger.post("/v1/chat/completions", json=ASK)).status_code == 200
        signal.raise_signal(signal.SIGTERM)  # a second one ends the wait


@pytest.mark.usefixtures("signals")
async def test_sigint_wants_no_wait():
    async with served(services_around(says()), drain_seconds=60) as (url, server):
        signal.raise_signal(signal.SIGINT)
        await until(lambda: not server.servers[0].is_serving())
        async with httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/ready")


async def test_two_hundred_streams_end_well_when_it_is_told_to_stop():
    pause = asyncio.Event()
    services = services_around(
        says(pauses={1: pause}), admission=Admission(max_streams=NUM_STREAMS, max_waiting=0)
    )
    begun = 0

    async def read(client: httpx.AsyncClient) -> str:
        nonlocal begun
        body = ASK | {"stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            text = [await anext(lines)]
            begun += 1
            text += [line async for line in lines]
        return "\n".join(text)

    limits = httpx.Limits(max_connections=None)
    async with (
        served(services, drain_seconds=0.2) as (url, server),
        httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client,
        asyncio.TaskGroup() as group,
    ):
        streams = [group.create_task(read(client)) for _ in range(NUM_STREAMS)]
        await until(lambda: begun == NUM_STREAMS, 30)
        server.should_exit = True
        await until(lambda: not server.servers[0].is_serving(), 10)
        pause.set()
    texts = [stream.result() for stream in streams]
    assert all('"finish_reason":"stop"' in text for text in texts)
    assert all(text.rstrip().endswith("data: [DONE]") for text in texts)
