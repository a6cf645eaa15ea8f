"""The application as clients meet it: called in memory, or served on a socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from typing import Any

import httpx
import uvicorn

from gateway.admission import Admission
from gateway.app import build_app
from gateway.served import Models, ServedModel
from gateway.server import Server
from gateway.services import Services
from tests.fakes import SPEC, FakeGenerator, chat_text

SNAPSHOT: dict[str, Any] = {"workers": [{}, {}], "complete": True, "uncovered": []}
MODEL_FIELDS = {field.name for field in fields(ServedModel)}


def services_around(generator: FakeGenerator, **changes: Any) -> Services:
    """A gateway's parts with a fake generator inside; `changes` are to its one model or to them."""
    of_model = {name: changes.pop(name) for name in MODEL_FIELDS & changes.keys()}
    model = ServedModel(
        spec=SPEC,
        text=chat_text(),
        generator=generator,
        snapshot=lambda: SNAPSHOT,
        is_ready=lambda: True,
        created=1_700_000_000,
    )
    services = Services(
        models=Models([replace(model, **of_model)]),
        admission=Admission(max_streams=8, max_waiting=8),
    )
    return replace(services, **changes)


def in_memory(generator: FakeGenerator, **changes: Any) -> httpx.AsyncClient:
    """A client of the application without a socket; streams come in one piece."""
    app = build_app(services_around(generator, **changes))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def until(claim: Callable[[], object], seconds: float = 2) -> None:
    """Returns once `claim` holds; fails when it does not in time."""
    async with asyncio.timeout(seconds):
        while not claim():  # noqa: ASYNC110 - what is claimed has no event
            await asyncio.sleep(0.001)


@asynccontextmanager
async def served(
    services: Services, *, drain_seconds: float = 0.0
) -> AsyncIterator[tuple[str, Server]]:
    """The application on a port of its own: its URL and its server."""
    is_stopping = asyncio.Event()
    services = replace(services, is_stopping=is_stopping.is_set)
    config = uvicorn.Config(
        build_app(services), port=0, lifespan="off", ws="none", log_config=None, access_log=False
    )
    server = Server(config, is_stopping=is_stopping, drain_seconds=drain_seconds)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        await serving
