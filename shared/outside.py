"""Tries whether gateways of a swarm can dial this machine, as they try it of a worker."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from shared.dial_back import DialBacks
from shared.discovery.multiaddrs import reachable_url
from shared.doctor_settings import WorkerDoctor
from shared.hosts import in_url, reach_of
from shared.identity import Identity
from shared.reached import Trial
from shared.records import open_record, sign_announcement
from shared.secret import SwarmSecret
from shared.swarm import Announcement, ModelSpec, Span
from shared.wire.certificate import Certificate
from shared.wire.codec import Frame
from shared.wire.link import Link, LinkPool
from shared.wire.messages import DialledBack

NUM_ASKED = 3
LEASE_SECONDS = 60.0


async def dialled_back(
    settings: WorkerDoctor,
    spec: ModelSpec,
    gateways: Sequence[Announcement],
    secret: SwarmSecret | None,
) -> list[Trial]:
    """Listen as a worker would that is told the same, and have gateways dial it.

    Where it turns out that they see this machine at another address, and nobody has given the one
    that they were told, a second trial has them dial that other one. Raises OSError when nothing
    can listen there, and RecordError for an address that nobody would believe.
    """
    async with AsyncExitStack() as stack:
        asking = _Asking(settings, spec, secret)
        url = await asking.listen(stack)
        trials = [await asking.ask(url, gateways[:NUM_ASKED])]
        outer = trials[0].seen_at
        if trials[0].is_elsewhere and outer and not settings.public_url:
            trials.append(await asking.ask(_moved(url, outer), gateways[:NUM_ASKED]))
        return trials


class _Asking:
    """A worker that is none: somebody who listens and asks, under a key of the moment.

    Under the worker's own it could take the place of one that runs already.
    """

    def __init__(self, settings: WorkerDoctor, spec: ModelSpec, secret: SwarmSecret | None) -> None:
        self._settings = settings
        self._spec = spec
        self._identity = Identity.create()
        self._certificate = Certificate.create() if settings.takes_tls else None
        self._sequence = time.time_ns() // 1_000_000
        self._pool = LinkPool(
            self._identity,
            settings.swarm,
            on_frame=self._hear,
            secret=secret,
            reach=reach_of("auto", settings.join),
        )
        self._dial_backs = DialBacks(self._pool)

    async def listen(self, stack: AsyncExitStack) -> str:
        """Take links until the stack is left; the address that is to be dialled."""
        settings = self._settings
        server = await self._pool.listen(
            settings.host, settings.port, certificate=self._certificate
        )
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        stack.push_async_callback(self._pool.close)
        port = int(next(iter(server.sockets)).getsockname()[1])
        has_tls = self._certificate is not None
        return settings.public_url or reachable_url(settings.host, port, has_tls=has_tls)

    async def ask(self, url: str, gateways: Sequence[Announcement]) -> Trial:
        """Have all of these gateways dial this address."""
        record = sign_announcement(self._identity, self._announcement(url))
        open_record(record)
        asked = (self._dial_backs.ask(gateway, record) for gateway in gateways)
        return Trial(url, await asyncio.gather(*asked))

    def _hear(self, link: Link, frame: Frame) -> None:
        if isinstance(frame.message, DialledBack):
            self._dial_backs.heard(link.peer, frame.message)

    def _announcement(self, url: str) -> Announcement:
        """Told to those who are asked and to nobody else, so that no route ever leads here."""
        self._sequence += 1
        return Announcement(
            worker=self._identity.peer,
            swarm=self._settings.swarm,
            model=self._spec.name,
            revision=self._spec.revision,
            span=Span(0, 1),
            num_blocks=self._spec.num_blocks,
            url=url,
            dtype="",
            sequence=self._sequence,
            issued_at=time.time(),
            lease_seconds=LEASE_SECONDS,
            leaving=True,
            certificate=self._certificate.fingerprint if self._certificate else b"",
        )


def _moved(url: str, host: str) -> str:
    """The same URL at another IP address."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{in_url(host)}:{parts.port}").geturl()
