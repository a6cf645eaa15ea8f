"""A gateway's life: join the swarm, keep links to workers, serve HTTP, leave."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvicorn
import uvloop

from gateway.admission import Admission
from gateway.api.status import readiness, swarm_snapshot
from gateway.app import build_app
from gateway.attach import AttachPort
from gateway.checkpoints import Checkpoints
from gateway.generate import SwarmGenerator
from gateway.generator import Generator
from gateway.key_ring import KeyRing
from gateway.links import SETTLE_SECONDS, Links
from gateway.means import Limits
from gateway.metrics import GatewayMetrics
from gateway.redis_store import open_store
from gateway.resume import Archive
from gateway.room import Room
from gateway.served import Models, ServedModel
from gateway.server import Server
from gateway.services import Services
from gateway.settings import GatewaySettings
from gateway.spill import Spill
from gateway.steady_store import SteadyStore
from gateway.store import MemoryStore, Store, StoreError
from gateway.text import ChatText
from shared.absence import Absence
from shared.discovery.kademlia import KademliaDirectory
from shared.discovery.multiaddrs import tcp_address
from shared.discovery.sealed import directory_of
from shared.discovery.watcher import Watcher
from shared.errors import ConfigError
from shared.garbage import spare_what_is_here
from shared.hosts import in_url, is_loopback, reach_of
from shared.identity import Identity
from shared.model_files import locate, name_of, read_spec
from shared.secret import SwarmSecret
from shared.state_file import write_state
from shared.swarm import ModelSpec, PeerId, topic_of

log = structlog.get_logger()


def live(settings: GatewaySettings) -> None:
    """Serve HTTP until told to stop. Raises ConfigError or ModelError."""
    uvloop.run(_serve(settings, tuple(_files(settings)), _aliases(settings)))


@dataclass(frozen=True)
class _Files:
    """What of a model lies on this machine: its directory, and what was read there."""

    directory: Path
    spec: ModelSpec
    text: ChatText


def _files(settings: GatewaySettings) -> Iterator[_Files]:
    models = settings.model or [""]
    names = settings.model_name or [name_of(model) for model in models]
    if len(names) != len(models):
        raise ConfigError(
            f"--model-name is given {len(names)} times and --model {len(models)} times; "
            "give each model a name, or none of them"
        )
    for model, name in zip(models, names, strict=True):
        directory = locate(model)
        text = ChatText.load(directory, settings.tool_format)
        yield _Files(directory, read_spec(directory, name), text)


def _aliases(settings: GatewaySettings) -> dict[str, str]:
    pairs = [alias.partition("=") for alias in settings.model_aliases]
    if wrong := next((alias for alias, _, name in pairs if not (alias and name)), None):
        raise ConfigError(f"--model-aliases takes ALIAS=NAME, not {wrong!r}")
    return {alias: name for alias, _, name in pairs}


async def _serve(
    settings: GatewaySettings, files: Sequence[_Files], aliases: dict[str, str]
) -> None:
    keys = _key_ring(settings)
    secret = SwarmSecret.load(settings.swarm_secret_file, settings.swarm)
    store = open_store(settings.resume_store, max_bytes=settings.resume_bytes)
    listener = _listen(settings)
    loop = asyncio.get_running_loop()
    # uvicorn handles the signals itself and raises them again at its end: to these, which only
    # keep the process alive long enough to close what is below.
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: None)
    spill = (
        Spill(settings.checkpoint_spill_dir, settings.checkpoint_spill_bytes)
        if settings.checkpoint_spill_dir and settings.checkpoint_bytes
        else None
    )
    checkpoints = Checkpoints(settings.checkpoint_bytes, spill)
    admission = Admission(
        max_streams=settings.max_streams,
        max_waiting=settings.max_queue,
        max_waiting_each=settings.max_queue_per_key,
    )
    metrics = GatewayMetrics()
    async with (
        _archive(settings, store, metrics) as archive,
        _directory(settings) as (identity, directory),
        AsyncExitStack() as stack,
    ):
        port = AttachPort.of(settings) if settings.attach_host else None
        links = [
            await stack.enter_async_context(
                _links(settings, one.spec, identity, directory, secret, metrics, port)
            )
            for one in files
        ]
        metrics.watch_parts(
            checkpoints,
            admission,
            lambda: sum(len(one.watcher.view) for one in links),
            lambda: sum(len(one.attached()) for one in links),
        )
        if port:
            listed = directory_of(directory, secret, identity)
            specs = [one.spec for one in files]
            await stack.enter_async_context(port.open(identity, listed, specs, links))
        means = partial(
            SwarmGenerator, checkpoints=checkpoints, limits=_limits(settings), metrics=metrics
        )
        served = [
            _served(one, to_workers, means(one.spec, to_workers), directory, _trusted(settings))
            for one, to_workers in zip(files, links, strict=True)
        ]
        is_stopping = asyncio.Event()
        services = Services(
            models=Models(served, aliases),
            admission=admission,
            metrics=metrics,
            keys=keys,
            archive=archive,
            responses=_responses(settings, archive),
            response_seconds=settings.response_seconds,
            room=Room(settings.states_bytes),
            has_open_metrics=settings.open_metrics,
            allowed_origins=tuple(settings.cors_origins),
            is_stopping=is_stopping.is_set,
        )
        server = Server(
            uvicorn.Config(
                build_app(services),
                access_log=False,
                log_level="warning",
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=int(services.shutdown_grace_seconds) + 5,
            ),
            is_stopping=is_stopping,
            drain_seconds=settings.drain_seconds,
        )
        spare_what_is_here()
        _say_ready(settings, listener, identity, attach_url=port.url if port else "")
        await server.serve(sockets=[listener])


def _key_ring(settings: GatewaySettings) -> KeyRing:
    """Raises ConfigError. Whoever opens a gateway to a network should know that it is open."""
    keys = KeyRing(settings.keys_file, settings.keys)
    if keys.is_open and not is_loopback(settings.host):
        log.warning(
            "open_to_everybody",
            host=settings.host,
            remedy="brigade keys make NAME, then give its file as --keys-file",
        )
    return keys


def _responses(settings: GatewaySettings, archive: Archive) -> Store:
    """Where responses are kept: in the store that replicas share, or in memory of their own."""
    return archive.store if settings.resume_store else MemoryStore(settings.response_bytes)


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


def _served(
    files: _Files,
    links: Links,
    generator: Generator,
    directory: KademliaDirectory,
    trusted: frozenset[PeerId] | None,
) -> ServedModel:
    def snapshot() -> dict[str, Any]:
        return _snapshot(files.spec, links, directory)

    return ServedModel(
        spec=files.spec,
        text=files.text,
        generator=generator,
        snapshot=snapshot,
        is_ready=lambda: readiness(snapshot(), trusted),
        created=int((files.directory / "config.json").stat().st_mtime),
    )


@asynccontextmanager
async def _directory(
    settings: GatewaySettings,
) -> AsyncGenerator[tuple[Identity, KademliaDirectory]]:
    """The gateway's own key, and its place among the nodes that know who hosts what."""
    identity = Identity.claim(settings.identity)
    directory = KademliaDirectory(
        identity,
        listen=tcp_address("127.0.0.1", settings.dht_port),
        join=settings.join,
        server=False,
        peer_cache=settings.peer_cache,
    )
    await directory.start()
    try:
        yield identity, directory
    finally:
        await directory.stop()


@asynccontextmanager
async def _links(
    settings: GatewaySettings,
    spec: ModelSpec,
    identity: Identity,
    directory: KademliaDirectory,
    secret: SwarmSecret | None,
    metrics: GatewayMetrics,
    port: AttachPort | None,
) -> AsyncGenerator[Links]:
    """The view of one model's workers, and links to them."""
    listed = directory_of(directory, secret, identity)
    watcher = Watcher(listed, topic_of(settings.swarm, spec.name, spec.revision))
    await watcher.start()
    absence = Absence(
        listed, spec, settings.swarm, secret is not None, known_peers=directory.known_peers
    )
    reach = reach_of(settings.reach, settings.join)
    links = Links(
        identity,
        settings.swarm,
        watcher,
        secret=secret,
        reach=reach,
        settle_seconds=SETTLE_SECONDS,
        doors=port.doors if port else None,
        certificate=port.fingerprint if port else b"",
        metrics=metrics,
    )
    keepers = [
        asyncio.create_task(links.keep_linked()),
        asyncio.create_task(absence.watch(watcher)),
    ]
    try:
        yield links
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        await links.close()
        await watcher.stop()


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


def _trusted(settings: GatewaySettings) -> frozenset[PeerId] | None:
    return frozenset(settings.trusted_peers) or None


def _limits(settings: GatewaySettings) -> Limits:
    return Limits(
        chunk_tokens=settings.prefill_chunk_tokens,
        guess_tokens=settings.guess_tokens,
        step_timeout_seconds=settings.step_timeout_seconds,
        recovery_timeout_seconds=settings.recovery_timeout_seconds,
        wire_dtype=settings.wire,
        has_standbys=settings.standby,
        trusted=_trusted(settings),
    )


def _snapshot(spec: ModelSpec, links: Links, directory: KademliaDirectory) -> dict[str, Any]:
    watcher = links.watcher
    snapshot = swarm_snapshot(
        spec,
        watcher.view,
        expires_in=watcher.expires_in,
        statuses=links.surveyor.statuses,
        linked=links.linked(),
    )
    return snapshot | {"gateway": links.peer, "known_nodes": directory.known_peers()}


def _say_ready(
    settings: GatewaySettings, listener: socket.socket, identity: Identity, *, attach_url: str
) -> None:
    host = in_url(settings.host)
    state = {
        "pid": os.getpid(),
        "url": f"http://{host}:{listener.getsockname()[1]}",
        "peer_id": identity.peer,
        "attach_url": attach_url,
    }
    if settings.state_file:
        write_state(settings.state_file, state)
    print(f"gateway ready: {json.dumps(state)}", flush=True)
