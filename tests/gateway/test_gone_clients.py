"""Clients that vanish at any stage of a request, on real sockets: at once nothing is held."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from gateway.admission import Admission
from gateway.services import Services
from shared.wire.messages import TokenLogprobs
from tests.fakes import SPEC, FakeGenerator, tokens_of
from tests.gateway.conftest import served, services_around, until

PATHS = ("/v1/chat/completions", "/v1/completions")
ASK: dict[str, Any] = {
    "model": "acme/tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "prompt": "hello",
    "max_tokens": 100_000,
}


LOUD: dict[str, dict[str, Any]] = {
    PATHS[0]: {"logprobs": True, "top_logprobs": 20},
    PATHS[1]: {"logprobs": 20},
}
"""Makes each token's frame a long one, so that no buffer between holds an answer."""


def asking(path: str, *, stream: bool, **more: Any) -> bytes:
    body = json.dumps(ASK | {"stream": stream} | more).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def connected(services: Services) -> AsyncIterator[socket.socket]:
    """A bare socket to a gateway, that takes as little as it can."""
    async with served(services) as (url, _):
        address = urlsplit(url)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (address.hostname, address.port))
            yield client


def cancelled(services: Services) -> float:
    name = "brigade_gateway_requests_cancelled_total"
    return services.metrics.registry.get_sample_value(name) or 0


async def nothing_held(services: Services) -> None:
    admission = services.admission
    held = lambda: admission.num_running + admission.num_waiting  # noqa: E731
    await until(lambda: cancelled(services) == 1 and not held(), seconds=1)


async def test_before_its_body_is_there():
    generator = FakeGenerator(tokens_of("hi"))
    services = services_around(generator)
    async with connected(services) as client:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, asking(PATHS[0], stream=False)[:-9])
        await asyncio.sleep(0.05)  # nothing tells that the gateway waits for the rest
        client.close()
        await nothing_held(services)
    assert generator.calls == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
async def test_in_the_queue(path: str, stream: bool):
    services = services_around(
        FakeGenerator(tokens_of("hi")), admission=Admission(max_streams=1, max_waiting=1)
    )
    async with services.admission.slot(), connected(services) as client:
        await asyncio.get_running_loop().sock_sendall(client, asking(path, stream=stream))
        await until(lambda: services.admission.num_waiting)
        client.close()
        await until(lambda: not services.admission.num_waiting, seconds=1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("silent_at", [0, 1], ids=["before the first token", "in the midst"])
async def test_while_tokens_are_made(path: str, stream: bool, silent_at: int):
    generator = FakeGenerator(tokens_of("hi"), pauses={silent_at: asyncio.Event()})
    services = services_around(generator)
    async with connected(services) as client:
        await asyncio.get_running_loop().sock_sendall(client, asking(path, stream=stream))
        await generator.started.wait()
        client.close()
        await nothing_held(services)
        await until(generator.closed.is_set, seconds=1)


@pytest.mark.parametrize("path", PATHS)
async def test_one_that_reads_no_more_is_given_up(path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.api.event_stream.SEND_TIMEOUT_SECONDS", 0.2)
    (x,) = tokens_of("x")
    told = TokenLogprobs(-1.0, tuple(range(20)), tuple(-float(i) for i in range(20)))
    generator = FakeGenerator([x] * 100_000, logprobs={x: told})
    services = services_around(generator, spec=a_model_of(200_000))
    async with connected(services) as client:
        loud = asking(path, stream=True, **LOUD[path])
        await asyncio.get_running_loop().sock_sendall(client, loud)
        await generator.started.wait()
        await until(generator.closed.is_set, seconds=30)
        await nothing_held(services)


def a_model_of(max_positions: int) -> Any:
    return msgspec.structs.replace(SPEC, max_positions=max_positions)
