"""A loaded worker: takes links, announces itself, serves, leaves."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec
import structlog
from websockets.asyncio.server import Server

from shared.catalogue import ENTRY_SECONDS, entry
from shared.discovery.directory import Directory
from shared.discovery.multiaddrs import reachable_url, warn_if_undiallable
from shared.errors import BrigadeError, ConfigError, RecordError
from shared.hosts import is_alone, reach_of
from shared.identity import Identity
from shared.pace import Pace
from shared.periodic import every
from shared.records import open_record, sign_announcement
from shared.secret import SwarmSecret
from shared.swarm import Announcement, PeerId, Span, topic_of
from shared.wire.certificate import Certificate
from worker.engine import Engine
from worker.kv_cache import PAGE_TOKENS
from worker.loading import Loaded, say
from worker.reaching import Reaching
from worker.server import WorkerServer
from worker.sessions import Sessions
from worker.settings import WorkerSettings
from worker.steady import SteadySpeed
from worker.tensors import name_of as dtype_name

log = structlog.get_logger()

STATUS_SECONDS = 2.0
LEAVE_POLL_SECONDS = 0.1
LEAVE_QUIETLY_SECONDS = 1.0
"""How long after the gateways that use it the others hear that a worker leaves."""
MEASURE_SECONDS = 60.0
"""Time between two readings of the pace, for workers that stay where they are told to."""
STALLED_GRACE_SECONDS = 1.0
"""How long one serves on that moves while the swarm has a hole: enough for steps under way."""
NEWS_SECONDS = 0.5
"""Between two announcements out of turn."""


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
        self._grace_seconds = settings.grace_seconds
        self._directory: Directory | None = None
        self.fits = 0
        """How many blocks it has room for, if it chose them itself."""
        self.speed = SteadySpeed(_speed_of(loaded.pace))
        """What others should plan by; a worker that moves takes what it knows of itself along."""
        self._next_span: Span | None = None
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
        reach = reach_of(settings.reach, settings.join)
        self._server = WorkerServer(
            identity,
            settings.swarm,
            shape=loaded.model,
            sessions=sessions,
            engine=self._engine,
            secret=secret,
            reach=reach,
        )
        self._reaching = Reaching(
            self._server.pool,
            self._server.dial_backs,
            attach=settings.attach,
            wanted=settings.attach_gateways,
            is_alone=is_alone(settings.host, settings.join),
            is_given=bool(settings.public_url),
        )
        self._server.on_lost = self._reaching.lost
        self._news = asyncio.Event()
        """Set when there is something to announce before its time."""

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
        on_undiallable: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Serve until `stop` is set, announcing all along; then say we are gone.

        `dht_node` is the multiaddr at which others may join the DHT through this worker;
        `on_undiallable` is called when it turns out that nobody can dial this machine.
        """
        self._dht_node = dht_node
        self._directory = directory
        async with AsyncExitStack() as stack:
            server = await self._listen()
            stack.push_async_callback(self._close, server)
            self._engine.start()
            stack.callback(self._engine.stop)
            topic = topic_of(self._settings.swarm, *self._model)
            settled = self._reaching.settled(
                directory, topic, self.url, self._direct_record, self._news.set
            )
            await stack.enter_async_context(settled)
            say(f"how others reach this worker: {self._reaching.verdict.why}")
            await self._be_undiallable(on_undiallable)
            loops = [
                asyncio.create_task(every(STATUS_SECONDS, self._tick)),
                asyncio.create_task(
                    every(self._settings.announce_period_seconds, lambda: self._announce(directory))
                ),
                asyncio.create_task(
                    every(self._settings.move_check_seconds or MEASURE_SECONDS, self._measure)
                ),
                asyncio.create_task(
                    every(NEWS_SECONDS, lambda: self._announce_news(directory, on_undiallable))
                ),
            ]
            stack.push_async_callback(_cancel, loops)
            await self._announce(directory)
            loops.append(asyncio.create_task(self._keep_listed(directory)))
            on_ready()
            await stop.wait()
            await self._leave(directory)

    async def intend(self, next_span: Span | None) -> None:
        """Tell the swarm of blocks that this worker is thinking of moving to, or no more."""
        self._next_span = next_span
        if self._directory is not None:
            await self._announce(self._directory)

    def all_is_stalled(self) -> None:
        """No session can go on until this worker has moved, so none is worth staying for."""
        self._grace_seconds = min(self._settings.grace_seconds, STALLED_GRACE_SECONDS)

    async def _leave(self, directory: Directory) -> None:
        """Say that we go, then serve on until no session needs us or the grace is over."""
        self._is_leaving = True
        self._server.sessions.is_draining = True
        self._server.tell_gateways()
        began = time.monotonic()
        # Announcing takes this process some 30 ms, which no step should wait for.
        await self._until_unneeded(lambda: began + min(self._grace_seconds, LEAVE_QUIETLY_SECONDS))
        await self._announce(directory)
        await self._list(directory)
        await self._until_unneeded(lambda: began + self._grace_seconds)

    async def _until_unneeded(self, deadline: Callable[[], float]) -> None:
        """Wait until no session needs this worker, or for a deadline, which may be moved nearer."""
        while self._server.is_needed and time.monotonic() < deadline():  # noqa: ASYNC110
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
        if not settings.public_url:
            warn_if_undiallable(settings.host, "--public-url")
        port = next(iter(server.sockets)).getsockname()[1]
        self.url = settings.public_url or reachable_url(
            settings.host, port, has_tls=self._certificate is not None
        )
        try:  # what others would refuse to believe is better said here and now
            open_record(self._direct_record())
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

    async def _measure(self) -> None:
        self.speed.measure(_speed_of(self._engine.pacer.pace))

    async def _keep_listed(self, directory: Directory) -> None:
        await self._list(directory)
        await every(ENTRY_SECONDS, lambda: self._list(directory))

    async def _list(self, directory: Directory) -> None:
        """Put an entry into the swarm's catalogue of models."""
        listed = entry(self.announcement())
        try:
            await directory.announce(listed.topic, sign_announcement(self._identity, listed))
        except BrigadeError as error:
            log.debug("entry_failed", error=str(error))

    async def _be_undiallable(self, act: Callable[[], Awaitable[None]] | None) -> None:
        if act and not self._reaching.verdict.is_direct:
            await act()

    async def _announce_news(
        self, directory: Directory, on_undiallable: Callable[[], Awaitable[None]] | None
    ) -> None:
        await self._news.wait()
        self._news.clear()
        await self._be_undiallable(on_undiallable)
        await self._announce(directory)

    async def _announce(self, directory: Directory) -> None:
        announcement = self.announcement()
        if not (announcement.url or announcement.attached):
            return  # nobody could reach it
        try:
            holders = await directory.announce(
                announcement.topic, sign_announcement(self._identity, announcement)
            )
        except BrigadeError as error:
            log.warning("announce_failed", error=str(error))
            return
        log.debug("announced", holders=holders)

    @property
    def attached(self) -> tuple[PeerId, ...]:
        """The gateways it is attached to, if nobody can dial it."""
        return self._reaching.attached

    @property
    def _model(self) -> tuple[str, str]:
        return self._loaded.spec.name, self._loaded.spec.revision

    def announcement(self) -> Announcement:
        """What it says of itself at this moment."""
        direct = self._direct_announcement()
        if self._reaching.verdict.is_direct:
            return direct
        return msgspec.structs.replace(
            direct, url="", certificate=b"", node="", attached=self._reaching.attached
        )

    def _direct_record(self) -> bytes:
        return sign_announcement(self._identity, self._direct_announcement())

    def _direct_announcement(self) -> Announcement:
        """What it says of itself if others can dial it."""
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
            speed=self.speed.told,
            fits=self.fits,
            next_span=self._next_span,
            intends=self._next_span is not None and not self._is_leaving,
        )


def _speed_of(pace: Pace) -> float:
    """Block-tokens a second, 0 as long as nothing was measured."""
    return pace.block_tokens_per_second if pace.is_known else 0.0


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
