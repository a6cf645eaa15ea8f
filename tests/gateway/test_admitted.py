"""Making tokens takes a place and is put to the caller's account; telling them again does not."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from gateway.admission import Admission
from gateway.admitted import AdmittedGenerator
from gateway.generator import Token
from gateway.key_ring import KeyRing
from gateway.keys import Caller, Key, caller_by, digest_of, make_secret
from gateway.metrics import GatewayMetrics
from shared.errors import RequestError
from shared.wire.messages import Sampling
from tests.fakes import END, FakeGenerator, tokens_of
from tests.gateway.conftest import in_memory, served, services_around, until
from tests.shared.announcing import Clock

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "acme/tiny", "messages": [{"role": "user", "content": "hello"}]}
ALICE, BOB = make_secret(), make_secret()


def ring(**limits: Any) -> KeyRing:
    return KeyRing(
        given=[
            Key(name="alice", digest=digest_of(ALICE), **limits),
            Key(name="bob", digest=digest_of(BOB)),
        ]
    )


def alice(**limits: Any) -> Caller:
    return caller_by(Key(name="alice", digest=digest_of(ALICE), **limits))


def admitted(
    generator: FakeGenerator, admission: Admission, caller: Caller | None = None, **more: Any
) -> AdmittedGenerator:
    metrics = more.pop("metrics", GatewayMetrics())
    caller = caller or alice()
    return AdmittedGenerator(generator, admission, metrics, caller=caller, model="m", **more)


def made_by(
    generator: AdmittedGenerator, prompt: tuple[int, ...] = (1, 2), made: tuple[int, ...] = ()
) -> AsyncGenerator[Token, None]:
    return generator.generate(
        prompt, sampling=Sampling(), max_tokens=9, stop_ids=frozenset(), made=made
    )


async def ids(tokens: AsyncGenerator[Token, None]) -> list[int]:
    return [token.token_id async for token in tokens]


async def test_a_place_is_held_until_the_session_is_freed():
    admission = Admission(max_streams=1, max_waiting=0)
    generator = FakeGenerator([1], pauses={1: asyncio.Event()})
    async with aclosing(made_by(admitted(generator, admission))) as tokens:
        await anext(tokens)
        assert (admission.num_running, generator.closed.is_set()) == (1, False)
    assert (admission.num_running, generator.closed.is_set()) == (0, True)


async def test_prefixes_and_accounts_are_the_caller_s():
    generator, metrics = FakeGenerator([1, 2, 3]), GatewayMetrics()
    admission = Admission(max_streams=1, max_waiting=0)
    await ids(made_by(admitted(generator, admission, metrics=metrics)))
    assert generator.calls[0]["tenant"] == "key:alice"
    told = {
        kind: metrics.registry.get_sample_value(
            "brigade_gateway_key_tokens_total", {"key": "alice", "kind": kind}
        )
        for kind in ("prompt", "completion")
    }
    assert told == {"prompt": 2, "completion": 3}


async def test_the_choices_of_a_request_count_once_and_so_does_their_prompt():
    clock = Clock()
    admission = Admission(max_streams=9, max_waiting=0, clock=clock)
    caller = alice(requests_per_minute=5, tokens_per_minute=100)
    generator = admitted(FakeGenerator([1]), admission, caller)
    for prompt in ((1, 2), (1, 2), (3, 4, 5)):
        await ids(made_by(generator, prompt))
    headers = admission.headers(caller)
    assert headers["x-ratelimit-remaining-requests"] == "4"
    assert headers["x-ratelimit-remaining-tokens"] == str(100 - 2 - 3 - 3 * 1)


async def test_an_answer_that_goes_on_is_no_new_request():
    admission = Admission(max_streams=1, max_waiting=0)
    caller = alice(requests_per_minute=1)
    generator = admitted(FakeGenerator([1, 2]), admission, caller)
    await ids(made_by(generator))
    assert await ids(made_by(admitted(FakeGenerator([1, 2]), admission, caller), made=(1,))) == [2]
    with pytest.raises(RequestError):
        await ids(made_by(admitted(FakeGenerator([1]), admission, caller)))


async def test_who_stops_waiting_is_not_waited_for():
    admission = Admission(max_streams=1, max_waiting=1)
    async with admission.slot():
        with pytest.raises(RequestError) as caught:
            await ids(made_by(admitted(FakeGenerator([1]), admission, patience_seconds=0.001)))
    assert (caught.value.status, caught.value.reason) == (503, "server_is_overloaded")
    assert admission.num_waiting == 0


# --- over HTTP ---


def says() -> FakeGenerator:
    return FakeGenerator(tokens_of(f"hi{END}"))


async def ask(client: httpx.AsyncClient, secret: str = ALICE, **body: Any) -> httpx.Response:
    return await client.post(CHAT, json=HELLO | body, headers={"x-api-key": secret})


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_of_a_key_are_limited_and_those_of_others_are_not(stream: bool):
    async with in_memory(says(), keys=ring(requests_per_minute=1)) as client:
        first, second = [await ask(client, stream=stream) for _ in range(2)]
        other = await ask(client, BOB, stream=stream)
    assert (first.status_code, second.status_code, other.status_code) == (200, 429, 200)
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert second.headers["x-ratelimit-limit-requests"] == "1"
    assert 55 <= int(second.headers["retry-after"]) <= 60
    error = second.json()["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert "x-ratelimit-limit-requests" not in other.headers


async def test_tokens_of_a_key_are_limited_by_what_was_made():
    async with in_memory(says(), keys=ring(tokens_per_minute=30)) as client:
        first, second = [await ask(client) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error"]["type"] == "tokens"
    assert int(second.headers["x-ratelimit-remaining-tokens"]) < 10


async def test_a_bad_request_costs_nothing():
    async with in_memory(says(), keys=ring(requests_per_minute=1)) as client:
        assert (await ask(client, temperature=9)).status_code == 400
        assert (await client.get("/v1/models", headers={"x-api-key": ALICE})).status_code == 200
        assert (await ask(client)).status_code == 200


async def test_the_caller_s_own_queue_is_429_and_ours_503():
    generator = FakeGenerator(tokens_of("hi"), pauses={0: asyncio.Event()})
    admission = Admission(max_streams=1, max_waiting=2, max_waiting_each=1)
    services = services_around(generator, admission=admission, keys=ring())
    async with served(services) as (url, _), httpx.AsyncClient(base_url=url) as client:
        waiting = [asyncio.create_task(ask(client)) for _ in range(2)]
        await until(lambda: admission.num_waiting == 1)
        own = await ask(client)
        waiting.append(asyncio.create_task(ask(client, BOB)))
        await until(lambda: admission.num_waiting == 2)
        for task in waiting:
            task.cancel()
    assert (own.status_code, own.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "retry-after" in own.headers


async def test_an_sdk_s_patience_bounds_the_wait_for_a_whole_answer_only():
    admission = Admission(max_streams=1, max_waiting=2)
    services = services_around(says(), admission=admission, hold_seconds=0.01)
    headers = {"x-stainless-read-timeout": "0.05"}
    async with (
        served(services) as (url, _),
        httpx.AsyncClient(base_url=url, headers=headers) as client,
    ):
        async with admission.slot():
            whole = await client.post(CHAT, json=HELLO)
            streaming = asyncio.create_task(client.post(CHAT, json=HELLO | {"stream": True}))
            await until(lambda: admission.num_waiting == 1)
        assert (await streaming).status_code == 200
    assert whole.status_code == 503


async def test_an_answer_told_again_takes_no_place():
    admission = Admission(max_streams=1, max_waiting=0)
    async with in_memory(says(), admission=admission) as client:
        headers = {"idempotency-key": "k"}
        first = await client.post(CHAT, json=HELLO, headers=headers)
        async with admission.slot():
            again = await client.post(CHAT, json=HELLO, headers=headers)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()


async def test_waiting_for_another_connection_s_answer_takes_no_place():
    pause = asyncio.Event()
    admission = Admission(max_streams=2, max_waiting=0)
    generator = FakeGenerator(tokens_of(f"hi{END}"), pauses={1: pause})
    async with in_memory(generator, admission=admission) as client:
        headers = {"idempotency-key": "k"}
        asking = [asyncio.create_task(client.post(CHAT, json=HELLO, headers=headers))]
        await generator.started.wait()
        asking.append(asyncio.create_task(client.post(CHAT, json=HELLO, headers=headers)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert admission.num_running == 1
        pause.set()
        first, second = await asyncio.gather(*asking)
    assert first.json() == second.json()
    assert len(generator.calls) == 1
