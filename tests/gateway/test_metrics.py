"""What GET /metrics tells, and that nobody can make it tell without end."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from gateway.admission import Admission
from gateway.checkpoints import Checkpoints, Stretch
from gateway.generator import Token
from gateway.metrics import GatewayMetrics
from shared.swarm import SessionId
from tests.fakes import END, FakeGenerator, tokens_of
from tests.gateway.conftest import in_memory, served, services_around, until
from tests.shared.announcing import Clock

HELLO = {"model": "acme/tiny", "messages": [{"role": "user", "content": "hello"}]}


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"brigade_gateway_{name}", labels)


def routes_of(metrics: GatewayMetrics) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "brigade_gateway_http_requests_total"
    }


async def counted(
    *asked: tuple[str, str], generator: FakeGenerator | None = None, **body: Any
) -> dict[tuple[str, str], float]:
    """What is counted of these requests, method and path each."""
    metrics = GatewayMetrics()
    speaker = generator or FakeGenerator(tokens_of(f"hi{END}"))
    async with in_memory(speaker, metrics=metrics) as client:
        for method, path in asked:
            await client.request(method, path, json=HELLO | body if method == "POST" else None)
    return routes_of(metrics)


async def test_metrics_are_served_as_prometheus_reads_them():
    async with in_memory(FakeGenerator()) as client:
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE brigade_gateway_tokens_total counter" in response.text
    assert "# TYPE brigade_gateway_guessed_right_tokens_total counter" in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_are_counted_by_route_and_status(stream: bool):
    url = "/v1/chat/completions"
    assert await counted(("POST", url), ("GET", "/health"), stream=stream) == {
        (url, "200"): 1,
        ("/health", "200"): 1,
    }
    assert await counted(("POST", url), temperature=9) == {(url, "400"): 1}


async def test_what_nobody_foresaw_counts_as_a_500():
    generator = FakeGenerator(failure=RuntimeError("oops"))
    assert await counted(("POST", "/chat/completions"), generator=generator) == {
        ("/chat/completions", "500"): 1
    }


async def test_a_client_that_hangs_up_before_its_answer_counts_as_gone():
    generator = FakeGenerator(tokens_of("hi"), pauses={0: asyncio.Event()})
    services = services_around(generator)
    async with served(services) as (url, _), httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=HELLO))
        await generator.started.wait()
        asking.cancel()
        await until(lambda: routes_of(services.metrics))
    assert routes_of(services.metrics) == {("/v1/chat/completions", "499"): 1}


async def test_paths_are_never_labels():
    asked = [("GET", f"/v1/models/m{n}") for n in range(3)]
    asked += [("GET", f"/nothing/{n}") for n in range(3)]
    assert await counted(*asked, ("DELETE", "/v1/models/x")) == {
        ("/v1/models/{name:path}", "404"): 3,
        ("none", "404"): 3,
        ("/v1/models/{name:path}", "405"): 1,
    }


async def test_gauges_tell_what_is_held_and_who_waits():
    metrics, checkpoints = GatewayMetrics(), Checkpoints(8)
    admission = Admission(max_streams=1, max_waiting=1)
    metrics.watch_parts(checkpoints, admission, lambda: 3)
    session = SessionId(bytes(16))
    checkpoints.open(session)
    checkpoints.add(session, 1, Stretch(0, 1, "float32", memoryview(b"12345678")))
    async with admission.slot():
        waiting = asyncio.create_task(admission.slot().__aenter__())
        await asyncio.sleep(0)
        told = {
            name: value(metrics.registry, name)
            for name in ("checkpoint_bytes", "requests_running", "requests_waiting", "workers")
        }
    assert told == {
        "checkpoint_bytes": 8,
        "requests_running": 1,
        "requests_waiting": 1,
        "workers": 3,
    }
    checkpoints.add(session, 1, Stretch(1, 1, "float32", memoryview(b"12345678")))
    assert value(metrics.registry, "checkpoint_bytes") == 0
    assert value(metrics.registry, "checkpoint_shed_bytes") == 16
    await waiting


async def test_the_wait_for_the_first_token_and_between_tokens_is_timed():
    """Not what is done with a token before the next one is asked for."""
    clock = Clock(100.0)

    async def tokens() -> AsyncGenerator[Token, None]:
        for seconds in (3.0, 0.5, 0.25):
            clock.now += seconds
            yield Token(1)

    metrics = GatewayMetrics()
    async for _ in metrics.timed(tokens(), began=98.0, clock=clock):
        clock.now += 50
    registry = metrics.registry
    assert value(registry, "time_to_first_token_seconds_sum") == 5.0
    assert value(registry, "time_to_first_token_seconds_count") == 1
    assert value(registry, "time_per_output_token_seconds_sum") == 0.75
    assert value(registry, "time_per_output_token_seconds_count") == 2


async def test_closing_timed_tokens_closes_the_generation():
    generator = FakeGenerator([1, 2, 3])
    made = generator.generate((), sampling=None, max_tokens=3, stop_ids=frozenset())  # type: ignore[arg-type]
    timed = GatewayMetrics().timed(made, began=0.0)
    await anext(timed)
    await timed.aclose()
    assert generator.closed.is_set()


async def test_answers_of_the_application_are_timed():
    metrics = GatewayMetrics()
    async with in_memory(FakeGenerator(tokens_of(f"hi{END}")), metrics=metrics) as client:
        response: httpx.Response = await client.post("/v1/chat/completions", json=HELLO)
    assert response.status_code == 200
    assert value(metrics.registry, "time_to_first_token_seconds_count") == 1
    assert value(metrics.registry, "time_per_output_token_seconds_count") == 2


async def test_what_means_the_same_is_told_under_vllm_s_names_too():
    metrics = GatewayMetrics()
    metrics.watch_parts(Checkpoints(1), Admission(max_streams=1, max_waiting=0), lambda: 0)
    async with in_memory(FakeGenerator(tokens_of(f"hi{END}")), metrics=metrics) as client:
        await client.post("/v1/chat/completions", json=HELLO)
        lines = (await client.get("/metrics")).text.splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    for ours, theirs in {
        "requests_running": "num_requests_running",
        "requests_waiting": "num_requests_waiting",
        "prompt_tokens_total": "prompt_tokens_total",
        "time_to_first_token_seconds_count": "time_to_first_token_seconds_count",
        "time_per_output_token_seconds_sum": "inter_token_latency_seconds_sum",
        "answer_seconds_count": "e2e_request_latency_seconds_count",
        "queue_seconds_count": "request_queue_time_seconds_count",
    }.items():
        assert told[f"vllm:{theirs}"] == told[f"brigade_gateway_{ours}"]
    assert float(told["vllm:prompt_tokens_total"]) > 0
    assert told["vllm:e2e_request_latency_seconds_count"] == "1.0"


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_that_nobody_waited_for_are_counted(stream: bool):
    generator = FakeGenerator(tokens_of("hi"), pauses={1: asyncio.Event()})
    services = services_around(generator)
    async with served(services) as (url, _), httpx.AsyncClient() as client:
        body = HELLO | {"stream": stream}
        asking = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=body))
        await generator.started.wait()
        asking.cancel()
        await until(lambda: value(services.metrics.registry, "requests_cancelled_total") == 1)
        await client.get(f"{url}/health")
    assert value(services.metrics.registry, "requests_cancelled_total") == 1
