"""A gateway's life: join the swarm, keep links to workers, serve HTTP, leave."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from gateway.admission import Admission
from gateway.api.status import readiness, swarm_snapshot
from gateway.app import build_app
from gateway.checkpoints import Checkpoints
from gateway.generate import SwarmGenerator
from gateway.generation import Limits
from gateway.links import Links
from gateway.metrics import GatewayMetrics
from gateway.redis_store import open_store
from gateway.resume import Archive
from gateway.services import Services
from gateway.settings import GatewaySettings
from gateway.steady_store import SteadyStore
from gateway.store import Store, StoreError
from gateway.text import ChatText
from shared.discovery.kademlia import KademliaDirectory
from shared.discovery.multiaddrs import tcp_address
from shared.discovery.watcher import Watcher
from shared.errors import ConfigError
from shared.identity import Identity
from shared.model_files import locate, name_of, read_spec
from shared.state_file import write_state
from shared.swarm import ModelSpec, topic_of

log = structlog.get_logger()


def live(settings: GatewaySettings) -> None:
    """Serve HTTP until told to stop. Raises ConfigError or ModelError."""
    directory = locate(settings.model)
    spec = read_spec(directory, settings.model_name or name_of(settings.model))
    asyncio.run(_serve(settings, spec, directory))


async def _serve(settings: GatewaySettings, spec: ModelSpec, model_directory: Path) -> None:
    store = open_store(settings.resume_store, max_bytes=settings.resume_bytes)
    text = ChatText.load(model_directory)
    listener = _listen(settings)
    loop = asyncio.get_running_loop()
    # uvicorn handles the signals itself and raises them again at its end: to these, which only
    # keep the process alive long enough to close what is below.
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: None)
    checkpoints = Checkpoints(settings.checkpoint_bytes)
    admission = Admission(max_streams=settings.max_streams, max_waiting=settings.max_queue)
    metrics = GatewayMetrics()
    async with (
        _archive(settings, store, metrics) as archive,
        _swarm(settings, spec) as (links, peers),
    ):
        metrics.watch_parts(checkpoints, admission, lambda: len(links.watcher.view))
        services = Services(
            spec=spec,
            text=text,
            generator=SwarmGenerator(spec, links, checkpoints, _limits(settings), metrics),
            admission=admission,
            metrics=metrics,
            archive=archive,
            snapshot=lambda: _snapshot(spec, links, peers),
            is_ready=lambda: readiness(_snapshot(spec, links, peers)),
            created=int((model_directory / "config.json").stat().st_mtime),
        )
        server = uvicorn.Server(
            uvicorn.Config(
                build_app(services),
                access_log=False,
                log_level="warning",
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=int(services.shutdown_grace_seconds) + 5,
            )
        )
        _say_ready(settings, listener, links)
        await server.serve(sockets=[listener])


@asynccontextmanager
async def _archive(
    settings: GatewaySettings, store: Store, metrics: GatewayMetrics
) -> AsyncGenerator[Archive]:
    """Where answers are kept. A store that is away is waited for while everything else runs."""
    try:
        await store.check()
    except StoreError as error:
        log.warning(
            "resume_store_unreachable",
            reason=str(error),
            effect="requests with x-resumable get 503 until it answers; others are served",
        )
    archive = Archive(SteadyStore(store, metrics), seconds=settings.resume_seconds)
    try:
        yield archive
    finally:
        await archive.close()


@asynccontextmanager
async def _swarm(
    settings: GatewaySettings, spec: ModelSpec
) -> AsyncGenerator[tuple[Links, KademliaDirectory]]:
    """The gateway's place in the swarm: discovery, the view, and links to workers."""
    identity = Identity.claim(settings.identity)
    directory = KademliaDirectory(
        identity,
        listen=tcp_address("127.0.0.1", settings.dht_port),
        join=settings.join,
        server=False,
        peer_cache=settings.peer_cache,
    )
    await directory.start()
    watcher = Watcher(directory, topic_of(settings.swarm, spec.name, spec.revision))
    await watcher.start()
    links = Links(identity, settings.swarm, watcher)
    keeper = asyncio.create_task(links.keep_linked())
    try:
        yield links, directory
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await links.close()
        await watcher.stop()
        await directory.stop()


def _listen(settings: GatewaySettings) -> socket.socket:
    """The bound HTTP socket. Raises ConfigError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another --port (0 takes any free one)"
        ) from error
    return listener


def _limits(settings: GatewaySettings) -> Limits:
    return Limits(
        chunk_tokens=settings.prefill_chunk_tokens,
        guess_tokens=settings.guess_tokens,
        step_timeout_seconds=settings.step_timeout_seconds,
        recovery_timeout_seconds=settings.recovery_timeout_seconds,
        wire_dtype=settings.wire,
        has_standbys=settings.standby,
    )


def _snapshot(spec: ModelSpec, links: Links, directory: KademliaDirectory) -> dict[str, Any]:
    watcher = links.watcher
    snapshot = swarm_snapshot(
        spec,
        watcher.view,
        expires_in=watcher.expires_in,
        statuses=links.statuses,
        linked=links.linked(),
    )
    return snapshot | {"gateway": links.peer, "known_nodes": directory.known_peers()}


def _say_ready(settings: GatewaySettings, listener: socket.socket, links: Links) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    state = {
        "pid": os.getpid(),
        "url": f"http://{host}:{listener.getsockname()[1]}",
        "peer_id": links.peer,
    }
    if settings.state_file:
        write_state(settings.state_file, state)
    print(f"gateway ready: {json.dumps(state)}", flush=True)
