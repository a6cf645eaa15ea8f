"""A worker's life: load the span, take links, announce, serve, leave."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
from websockets.asyncio.server import Server

from shared.discovery.directory import Directory
from shared.discovery.kademlia import KademliaDirectory
from shared.discovery.multiaddrs import reachable_host, tcp_address
from shared.discovery.sealed import directory_of
from shared.errors import BrigadeError, ConfigError, RecordError
from shared.hosts import reach_of
from shared.identity import Identity
from shared.model_files import hub_model, locate, name_of, read_spec
from shared.pace import BATCHES, UNMEASURED, Pace
from shared.records import open_record, sign_announcement
from shared.secret import SwarmSecret
from shared.state_file import write_state
from shared.swarm import Announcement, ModelSpec, PeerId, Span
from shared.wire.certificate import Certificate
from worker.capacity import choose_device, choose_dtype, new_cache, pages_that_fit, use_threads
from worker.engine import Engine
from worker.fetch import fetch_span
from worker.grammar import Grammars
from worker.kv_cache import PAGE_TOKENS, KvCache
from worker.mapped_memory import forget_code
from worker.measuring import measure_pace
from worker.progress import shown
from worker.server import WorkerServer, hosted_span
from worker.sessions import Sessions
from worker.settings import WorkerSettings
from worker.span_model import SpanModel
from worker.tensors import name_of as dtype_name
from worker.weights import load_span

log = structlog.get_logger()

STATUS_SECONDS = 2.0
LEAVE_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Loaded:
    """A span in memory and what is known of its model."""

    spec: ModelSpec
    model: SpanModel
    pages: int
    grammars: Grammars | None = None
    cache: KvCache | None = None
    pace: Pace = UNMEASURED


def live(settings: WorkerSettings) -> None:
    """Load, serve until told to stop, leave. Raises ConfigError or ModelError."""
    loaded = load(settings)
    asyncio.run(_serve(settings, loaded))


def load(settings: WorkerSettings) -> Loaded:
    """Load the span the settings name, saying what goes on. Raises ConfigError or ModelError."""
    use_threads(settings.threads)
    directory = locate(settings.model)
    spec = read_spec(directory, settings.model_name or name_of(settings.model))
    span = hosted_span(settings.blocks, spec.num_blocks)
    device = choose_device(settings.device)
    grammars = Grammars.load(directory) if span.end == spec.num_blocks else None
    if on_hub := hub_model(settings.model):
        with shown(f"blocks {span} of {spec.name}", _say) as on_progress:
            directory = fetch_span(on_hub, directory, span, on_progress)
    if settings.quant == "int8" and device.type == "cpu":
        _say("int8 computes at about a tenth of the speed on CPU; nf4 at half is smaller, too")
    started = time.perf_counter()
    model = load_span(
        directory,
        span,
        dtype=choose_dtype(settings.dtype, device),
        device=device,
        quant=settings.quant,
        on_plan=lambda tensors, size: _say(
            f"loading blocks {span} of {spec.name}: {tensors} tensors, {size / 1e6:.1f} MB"
        ),
    )
    pages = pages_that_fit(model, settings.kv_tokens)
    cache = new_cache(model, pages)
    _say(
        f"loaded in {time.perf_counter() - started:.1f} s on {device} as {model.dtype}"
        + (f" with {settings.quant} weights" if settings.quant != "none" else "")
        + (" with packed weights" if model.is_packed else "")
        + f": {model.weight_bytes / 1e6:.1f} MB; "
        f"room for {pages * PAGE_TOKENS} tokens of cache"
    )
    pace = measure_pace(model, cache, pages)
    _say(
        f"a block takes {1000 * pace.decode[0]:.2f} ms a token, "
        f"{1000 * pace.decode[-1]:.2f} ms for {BATCHES[-1]} sessions at once, "
        f"{1e6 * pace.prefill:.0f} µs for a token of a prompt"
    )
    forget_code()
    return Loaded(spec, model, pages, grammars, cache, pace)


class Node:
    """A loaded worker that serves until told to stop."""

    def __init__(
        self,
        settings: WorkerSettings,
        identity: Identity,
        loaded: Loaded,
        *,
        secret: SwarmSecret | None = None,
    ) -> None:
        self.span: Span = loaded.model.span
        self.url = ""
        self._settings = settings
        self._identity = identity
        self._loaded = loaded
        self._sequence = 0
        self._dht_node = ""
        self._certificate = Certificate.create() if settings.takes_tls else None
        self._is_leaving = False
        self._engine = Engine(
            loaded.model,
            max_step_tokens=settings.max_step_tokens,
            grammars=loaded.grammars,
            cache=loaded.cache,
            pace=loaded.pace,
        )
        sessions = Sessions(
            self.span,
            pages_total=loaded.pages,
            page_tokens=PAGE_TOKENS,
            max_sessions=settings.max_sessions,
            lease_seconds=settings.session_lease_seconds,
        )
        self._server = WorkerServer(
            identity,
            settings.swarm,
            shape=loaded.model,
            sessions=sessions,
            engine=self._engine,
            secret=secret,
            reach=reach_of(settings.reach, settings.join),
        )

        for name, help_text, value in (
            ("sessions", "Sessions held.", lambda: len(sessions)),
            ("queued_steps", "Steps waiting for the engine.", lambda: self._engine.queued),
            (
                "pages_available",
                "Cache pages a new session could have.",
                lambda: sessions.pages_available,
            ),
            ("pages_total", "Cache pages in all.", lambda: sessions.pages_total),
        ):
            self._engine.metrics.watch(name, help_text, value)

    async def serve(
        self,
        directory: Directory,
        stop: asyncio.Event,
        on_ready: Callable[[], None],
        *,
        dht_node: str = "",
    ) -> None:
        """Serve until `stop` is set, announcing all along; then say we are gone.

        `dht_node` is the multiaddr at which others may join the DHT through this worker.
        """
        self._dht_node = dht_node
        async with AsyncExitStack() as stack:
            server = await self._listen()
            stack.push_async_callback(self._close, server)
            self._engine.start()
            stack.callback(self._engine.stop)
            loops = [
                asyncio.create_task(_every(STATUS_SECONDS, self._tick)),
                asyncio.create_task(
                    _every(
                        self._settings.announce_period_seconds,
                        lambda: self._announce(directory),
                    )
                ),
            ]
            stack.push_async_callback(_cancel, loops)
            await self._announce(directory)
            on_ready()
            await stop.wait()
            await self._leave(directory)

    async def _leave(self, directory: Directory) -> None:
        """Say that we go, then serve on until no session needs us or the grace is over."""
        self._is_leaving = True
        self._server.sessions.is_draining = True
        self._server.tell_gateways()
        await self._announce(directory)
        deadline = time.monotonic() + self._settings.grace_seconds
        while self._server.is_needed and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LEAVE_POLL_SECONDS)

    async def _listen(self) -> Server:
        settings = self._settings
        if self._certificate and settings.public_url.startswith("ws:"):
            raise ConfigError(f"--tls on needs a wss:// --public-url, not {settings.public_url}")
        try:
            server = await self._server.pool.listen(
                settings.host,
                settings.port,
                certificate=self._certificate,
                process_request=self._engine.metrics.answer,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
                "choose another --port (0 takes any free one)"
            ) from error
        port = next(iter(server.sockets)).getsockname()[1]
        host = reachable_host(settings.host)
        host = f"[{host}]" if ":" in host else host
        scheme = "wss" if self._certificate else "ws"
        self.url = settings.public_url or f"{scheme}://{host}:{port}"
        try:  # what others would refuse to believe is better said here and now
            open_record(sign_announcement(self._identity, self._announcement()))
        except RecordError as error:
            raise ConfigError(f"address {self.url} cannot be announced: {error}") from error
        return server

    async def _close(self, server: Server) -> None:
        await self._server.pool.close()
        server.close()
        await server.wait_closed()

    async def _tick(self) -> None:
        self._server.expire_sessions()
        self._server.tell_gateways(with_neighbours=True)

    async def _announce(self, directory: Directory) -> None:
        announcement = self._announcement()
        try:
            holders = await directory.announce(
                announcement.topic, sign_announcement(self._identity, announcement)
            )
        except BrigadeError as error:
            log.warning("announce_failed", error=str(error))
            return
        log.debug("announced", holders=holders)

    def _announcement(self) -> Announcement:
        spec = self._loaded.spec
        # grows over restarts too, as long as the clock does not step back
        self._sequence = max(self._sequence + 1, int(time.time() * 1000))
        decode_seconds = self._engine.decode_seconds
        return Announcement(
            worker=PeerId(self._identity.peer),
            swarm=self._settings.swarm,
            model=spec.name,
            revision=spec.revision,
            span=self.span,
            num_blocks=spec.num_blocks,
            url=self.url,
            dtype=dtype_name(self._loaded.model.dtype),
            sequence=self._sequence,
            issued_at=time.time(),
            lease_seconds=self._settings.lease_seconds,
            leaving=self._is_leaving,
            tokens_per_second=1 / decode_seconds if decode_seconds else 0.0,
            max_tokens=self._loaded.pages * PAGE_TOKENS,
            node=self._dht_node,
            certificate=self._certificate.fingerprint if self._certificate else b"",
            pace=self._engine.pacer.pace,
        )


async def _serve(settings: WorkerSettings, loaded: Loaded) -> None:
    identity = Identity.claim(settings.identity)
    directory = KademliaDirectory(
        identity, listen=tcp_address(settings.host, settings.dht_port), join=settings.join
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    secret = SwarmSecret.load(settings.swarm_secret_file, settings.swarm)
    node = Node(settings, identity, loaded, secret=secret)
    _say("joining the swarm")
    await directory.start()

    def on_ready() -> None:
        state = {
            "pid": os.getpid(),
            "peer_id": identity.peer,
            "start": node.span.start,
            "end": node.span.end,
            "url": node.url,
            "multiaddrs": directory.multiaddrs,
        }
        if settings.state_file:
            write_state(settings.state_file, state)
        print(f"worker ready: {json.dumps(state)}", flush=True)

    try:
        listed = directory_of(directory, secret, identity)
        await node.serve(listed, stop, on_ready, dht_node=directory.multiaddrs[0])
    finally:
        await directory.stop()


def _say(text: str) -> None:
    print(f"worker: {text}", flush=True)


async def _every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await act()
        except Exception:  # a worker's heartbeat must outlive one bad beat
            log.exception("beat_failed")


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
