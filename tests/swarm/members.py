"""Who is in the swarm of a chaos run: workers behind forwarders, and which of them are well."""

import asyncio
import itertools
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from shared.swarm import Span
from tests.swarm.forwarder import Forwarder
from tests.swarm.nursery import Nursery, Nursling

POLL_SECONDS = 0.25
BACK_SECONDS = 60.0
"""How long a worker that is well again may stay out of the gateway's view."""


@dataclass(eq=False)
class Member:
    """A worker that everybody dials through its forwarder."""

    span: str
    process: Nursling
    forwarder: Forwarder
    peer: str
    port: int
    hurts: int = 0
    is_gone: bool = False

    @property
    def is_well(self) -> bool:
        """Whether nothing keeps it from serving."""
        return not self.hurts and not self.is_gone

    async def sessions_and_pages(self, client: httpx.AsyncClient) -> tuple[float, float]:
        """Sessions it holds, and cache pages that a new session could not have."""
        page = await client.get(f"http://127.0.0.1:{self.port}/metrics")
        values = dict(line.rsplit(" ", 1) for line in page.text.splitlines() if line[0] != "#")
        pages = [float(values[f"brigade_worker_pages_{kind}"]) for kind in ("total", "available")]
        return float(values["brigade_worker_sessions"]), pages[0] - pages[1]


@dataclass
class Holes:
    """When a span had no worker that was well, as far as we did it."""

    times: list[tuple[float, float]] = field(default_factory=list)
    _since: float | None = None

    def note(self, now: float, *, is_covered: bool) -> None:
        """Something changed."""
        if is_covered and self._since is not None:
            self.times.append((self._since, now))
            self._since = None
        elif not is_covered and self._since is None:
            self._since = now

    def overlap(self, start: float, end: float) -> bool:
        """Whether there was one in that time."""
        return any(begun <= end and start <= over for begun, over in self._until(end))

    def lasted(self, start: float, end: float) -> bool:
        """Whether there was one all that time."""
        return any(begun <= start and end <= over for begun, over in self._until(end))

    def _until(self, end: float) -> list[tuple[float, float]]:
        return [*self.times, *([(self._since, end)] if self._since is not None else [])]


class Population:
    """All workers of a run, those that are gone included."""

    def __init__(self, nursery: Nursery, home: Path, common: list[str], url: str) -> None:
        """`common` are the arguments that all workers share, `url` is the gateway's."""
        self.members: list[Member] = []
        self._holes: dict[str, Holes] = {}
        self._coming: Counter[str] = Counter()
        self._nursery = nursery
        self._home = home
        self._common = common
        self._url = url
        self._numbers = itertools.count()
        self._linked: set[str] = set()
        self._polled = asyncio.Condition()

    @property
    def present(self) -> list[Member]:
        """Those that have not been killed, frozen or told to leave."""
        return [member for member in self.members if not member.is_gone]

    def twins(self, member: Member) -> list[Member]:
        """The other workers of its span that are well."""
        return [m for m in self.present if m.span == member.span and m is not member and m.is_well]

    def were_bare(self, gaps: str, start: float, end: float, *, throughout: bool = False) -> bool:
        """Whether it was our doing that a gateway found nobody for these blocks, at some moment of
        that time or `throughout`."""
        missing = [Span.parse(gap) for gap in re.findall(r"\d+:\d+", gaps)]
        holes = [
            holes
            for span, holes in self._holes.items()
            if any(gap.covers(Span.parse(span)) for gap in missing)
        ]
        return bool(holes) and all(
            hole.lasted(start, end) if throughout else hole.overlap(start, end) for hole in holes
        )

    def counts(self) -> Counter[str]:
        """Workers by span, those that are being started included."""
        return Counter(member.span for member in self.present) + self._coming

    async def join(self, span: str) -> Member:
        """Start a worker; it may be hit once the gateway has a link to it."""
        self._coming[span] += 1
        try:
            member = await self._join(span)
        finally:
            self._coming[span] -= 1
        self.members.append(member)
        self._note()
        return member

    async def _join(self, span: str) -> Member:
        forwarder = Forwarder()
        await forwarder.start()
        name = f"w{next(self._numbers)}"
        process = await self._nursery.start(
            f"worker {name} {span}",
            "worker",
            *self._common,
            f"--blocks={span}",
            f"--public-url=ws://127.0.0.1:{forwarder.port}",
            f"--identity={self._home / name}.key",
        )
        try:
            ready = await process.ready()
            port = link_port(ready)
            forwarder.aim("127.0.0.1", port)
            member = Member(span, process, forwarder, ready["peer_id"], port)
            await self.seen(member)
        except TimeoutError:  # nobody would ever hit it, or count it
            process.signal(signal.SIGKILL)
            await forwarder.close()
            raise
        return member

    @contextmanager
    def hurting(self, member: Member) -> Iterator[None]:
        """Count a worker as unwell."""
        member.hurts += 1
        self._note()
        try:
            yield
        finally:
            member.hurts -= 1
            self._note()

    def lose(self, member: Member) -> None:
        """Count a worker as gone for good."""
        member.is_gone = True
        self._note()

    async def seen(self, member: Member) -> float:
        """Wait until the gateway has a link to a worker; the seconds it took."""
        started = time.monotonic()
        async with asyncio.timeout(BACK_SECONDS), self._polled:
            await self._polled.wait()  # for news that are newer than the question
            await self._polled.wait_for(lambda: member.peer in self._linked)
        return time.monotonic() - started

    async def watch(self) -> None:
        """Keep asking the gateway whom it sees."""
        async with httpx.AsyncClient(base_url=self._url, timeout=30, trust_env=False) as client:
            while True:
                workers: list[dict[str, Any]] = (await client.get("/swarm")).json()["workers"]
                async with self._polled:
                    self._linked = {w["peer_id"] for w in workers if w["linked"]}
                    self._polled.notify_all()
                await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        """End every worker at once: how they leave has been seen."""
        for member in self.members:
            member.process.signal(signal.SIGKILL)
        await asyncio.gather(*(member.process.stop() for member in self.members))
        await asyncio.gather(*(member.forwarder.close() for member in self.members))

    def _note(self) -> None:
        now = time.monotonic()
        well = {member.span for member in self.members if member.is_well}
        for span in {member.span for member in self.members}:
            self._holes.setdefault(span, Holes()).note(now, is_covered=span in well)


def link_port(ready: dict[str, Any]) -> int:
    """Where a worker takes links: it listens there and at the port it says for discovery."""
    told = {int(address.split("/tcp/")[1].split("/")[0]) for address in ready["multiaddrs"]}
    sockets = psutil.Process(ready["pid"]).net_connections("tcp")
    (port,) = {s.laddr.port for s in sockets if s.status == psutil.CONN_LISTEN} - told
    return port
