"""The port where workers attach that nobody can dial, and the announcement by which they find it.

Each model has an address of its own there, the last part of which names it, so that a link is that
model's from the start. Workers look gateways up under a topic beside that of their own kind.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from gateway.links import Links
from gateway.settings import GatewaySettings
from shared.discovery.directory import Directory
from shared.discovery.multiaddrs import reachable_url, warn_if_undiallable
from shared.errors import BrigadeError, ConfigError, RecordError
from shared.identity import Identity
from shared.periodic import every
from shared.records import open_record, sign_announcement
from shared.swarm import GATEWAYS, Announcement, ModelSpec, topic_of
from shared.wire.bounds import MAX_LINKS_PER_ADDRESS, Doors, Room
from shared.wire.certificate import Certificate
from shared.wire.dialling import SERVER_OPTIONS
from shared.wire.intake import MAX_UNREAD_BYTES, Intake

log = structlog.get_logger()

ANNOUNCE_SECONDS = 8.0
LEASE_SECONDS = 30.0


class AttachPort:
    """A gateway's port for workers that nobody can dial."""

    def __init__(
        self, host: str, port: int, *, url: str = "", certificate: Certificate | None = None
    ) -> None:
        """`url` is what others dial to come here, if that is not the host and the port."""
        self.url = url
        self._host = host
        self._port = port
        self._certificate = certificate
        self._serving: dict[str, Links] = {}
        self._sequence = 0
        # All who come through a proxy come from its address.
        is_proxied = bool(url) and certificate is None
        self.doors = Doors(per_address=0 if is_proxied else MAX_LINKS_PER_ADDRESS)

    @classmethod
    def of(cls, settings: GatewaySettings) -> "AttachPort":
        """The port an operator asked for. Raises ConfigError."""
        if settings.attach_tls == "on" and settings.attach_url.startswith("ws:"):
            raise ConfigError(f"--attach-tls on needs a wss:// URL, not {settings.attach_url}")
        return cls(
            settings.attach_host,
            settings.attach_port,
            url=settings.attach_url,
            certificate=Certificate.create() if settings.takes_tls else None,
        )

    @property
    def fingerprint(self) -> bytes:
        """Of the certificate that links are under; none without TLS of our own."""
        return self._certificate.fingerprint if self._certificate else b""

    @asynccontextmanager
    async def open(
        self,
        identity: Identity,
        directory: Directory,
        specs: Sequence[ModelSpec],
        links: Sequence[Links],
    ) -> AsyncGenerator[None]:
        """Take links for these models and announce it, until the end. Raises ConfigError."""
        swarm = links[0].swarm
        self._serving = {
            _name_of(swarm, spec): to_workers for spec, to_workers in zip(specs, links, strict=True)
        }
        server = await self._listen()
        announce = partial(self._announce, identity, directory, swarm, specs)
        try:
            self._check(identity, swarm, specs)
            announcing = asyncio.create_task(every(ANNOUNCE_SECONDS, announce, at_once=True))
            try:
                yield
            finally:
                announcing.cancel()
                await asyncio.gather(announcing, return_exceptions=True)
                await announce(leaving=True)
        finally:
            server.close()
            await server.wait_closed()

    async def _listen(self) -> Server:
        options: dict[str, Any] = {"ssl": self._certificate.context} if self._certificate else {}
        create: Any = partial(Intake, room=Room(MAX_UNREAD_BYTES))
        try:
            server = await serve(
                self._accept,
                self._host,
                self._port,
                create_connection=create,
                process_request=self._answer,
                **SERVER_OPTIONS,
                **options,
            )
        except OSError as error:
            raise ConfigError(
                f"workers cannot attach at {self._host}:{self._port}: {error.strerror or error}; "
                "choose another --attach-host or --attach-port (0 takes any free one)"
            ) from error
        if not self.url:
            warn_if_undiallable(self._host, "--attach-url")
        port = next(iter(server.sockets)).getsockname()[1]
        self.url = self.url or reachable_url(
            self._host, port, has_tls=self._certificate is not None
        )
        return server

    async def _accept(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        await self._serving[_last_part(socket.request.path)].accept(socket)

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Let a link begin, or say what this port is for."""
        if "Upgrade" in request.headers and _last_part(request.path) in self._serving:
            return None
        return connection.respond(HTTPStatus.NOT_FOUND, "workers of a swarm attach here\n")

    def _check(self, identity: Identity, swarm: str, specs: Sequence[ModelSpec]) -> None:
        """What others would refuse to believe is better said here and now. Raises ConfigError."""
        try:
            for spec in specs:
                open_record(sign_announcement(identity, self._announcement(identity, swarm, spec)))
        except RecordError as error:
            raise ConfigError(f"attach address {self.url} cannot be announced: {error}") from error

    async def _announce(
        self,
        identity: Identity,
        directory: Directory,
        swarm: str,
        specs: Sequence[ModelSpec],
        *,
        leaving: bool = False,
    ) -> None:
        for spec in specs:
            announcement = self._announcement(identity, swarm, spec, leaving=leaving)
            try:
                record = sign_announcement(identity, announcement)
                await directory.announce(announcement.topic, record)
            except BrigadeError as error:
                log.warning("announce_failed", error=str(error))

    def _announcement(
        self, identity: Identity, swarm: str, spec: ModelSpec, *, leaving: bool = False
    ) -> Announcement:
        # grows over restarts too, as long as the clock does not step back
        self._sequence = max(self._sequence + 1, int(time.time() * 1000))
        return Announcement(
            worker=identity.peer,
            swarm=swarm,
            model=spec.name,
            revision=spec.revision + GATEWAYS,
            span=spec.blocks,
            num_blocks=spec.num_blocks,
            url=f"{self.url.rstrip('/')}/{_name_of(swarm, spec)}",
            dtype="",
            sequence=self._sequence,
            issued_at=time.time(),
            lease_seconds=LEASE_SECONDS,
            leaving=leaving,
            certificate=self.fingerprint,
        )


def _name_of(swarm: str, spec: ModelSpec) -> str:
    topic = topic_of(swarm, spec.name, spec.revision)
    return hashlib.sha256(topic.encode()).hexdigest()[:16]


def _last_part(path: str) -> str:
    return urlsplit(path).path.rpartition("/")[2]
