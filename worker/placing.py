"""A worker's place in its swarm: looks at the view, says what it is about to host, decides.

What to do is decided in shared/placement.py; here it is looked at, said, waited for.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from shared.discovery.directory import Directory
from shared.discovery.multiaddrs import reachable_url
from shared.discovery.watcher import Watcher
from shared.errors import BrigadeError, PeerUnreachable
from shared.explanation import reason
from shared.identity import Identity
from shared.periodic import every
from shared.placement import Choice, Survey, choose_span, is_torn, should_move, survey
from shared.records import sign_announcement
from shared.swarm import Announcement, ModelSpec, PeerId, Span, SwarmView, topic_of
from worker.node import Node
from worker.room import Room
from worker.saying import say
from worker.settings import WorkerSettings
from worker.steady import SteadySpeed

log = structlog.get_logger()

LOOK_SECONDS = 2.0
MAX_CHANGES_OF_MIND = 8
"""After so many a newcomer takes what it has: others will move if that was wrong."""


class Place:
    """Finds a worker's span, again and again."""

    def __init__(
        self,
        settings: WorkerSettings,
        identity: Identity,
        spec: ModelSpec,
        directory: Directory,
        *,
        chance: random.Random | None = None,
    ) -> None:
        self.peer = PeerId(identity.peer)
        self._settings = settings
        self._identity = identity
        self._spec = spec
        self._directory = directory
        self._chance = chance or random.Random()
        self._watcher = Watcher(
            directory, topic_of(settings.swarm, spec.name, spec.revision), poll_seconds=LOOK_SECONDS
        )
        self._bare_since: float | None = None
        self.reload_seconds = 60.0
        """How long loading took the last time."""
        self.speed = SteadySpeed()
        """What others should plan by, from one span to the next."""

    @asynccontextmanager
    async def looking(self) -> AsyncGenerator[None]:
        """Keep the view fresh."""
        await self._watcher.start()
        try:
            yield
        finally:
            await self._watcher.stop()

    async def neediest(self) -> int:
        """The block that gets least, after a first look at the swarm."""
        if self._settings.join:
            say(f"looking for {self._settings.settle_seconds:g} s at who hosts what")
            await asyncio.sleep(self._settings.settle_seconds)
        levels = (await self._others()).levels
        return levels.index(min(levels))

    async def choose(self, room: Room) -> Span:
        """A newcomer's span: said, left to spread, looked at again, until it stays the same."""
        self.speed.measure(room.speed)
        wanted = await self._choice(room, None)
        for _ in range(MAX_CHANGES_OF_MIND if self._settings.join else 0):
            seconds = self._settings.settle_seconds
            say(f"would take blocks {wanted}; waiting {seconds:g} s for others with the same idea")
            await self.say_next(wanted, room, intends=True)
            await asyncio.sleep(seconds)
            again = await self._choice(room, wanted)
            if again == wanted:
                break
            wanted = again
        return wanted

    @asynccontextmanager
    async def loading(self, span: Span, room: Room) -> AsyncGenerator[None]:
        """Keep saying that a span is being loaded, so that nobody else fills the same need."""
        await self.say_next(span, room)
        period = self._settings.announce_period_seconds
        telling = asyncio.create_task(every(period, lambda: self.say_next(span, room)))
        started = time.monotonic()
        try:
            yield
            self.reload_seconds = time.monotonic() - started
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def next_span(self, node: Node) -> Span:
        """The span to move to, once there is one that is worth it; the swarm knows of it then."""
        settings = self._settings
        while True:
            await self._wait(node)
            wanted = await self._move(node, before=None)
            while wanted is not None:
                log.info(
                    "means_to_move", span=str(wanted.span), now=wanted.before, then=wanted.after
                )
                await node.intend(wanted.span)
                await asyncio.sleep(settings.settle_seconds)
                again = await self._move(node, before=self.peer)
                if again is not None and again.span == wanted.span:
                    say(
                        f"blocks {again.span} need it more than {node.span}: the swarm goes from "
                        f"{again.before:.1f} to {again.after:.1f} tokens/s"
                    )
                    return again.span
                await node.intend(None)
                wanted = again

    async def hasten(self, node: Node) -> None:
        """While it leaves for another span: tell it when the swarm has a hole, at two looks.

        Streams wait at that hole, with sessions on every worker: none would ever be let go.
        """
        num_looks = 0
        while num_looks < 2:
            await asyncio.sleep(LOOK_SECONDS)
            num_looks = num_looks + 1 if self._is_torn_beside(node) else 0
        node.all_is_stalled()

    async def say_next(self, span: Span, room: Room, *, intends: bool = False) -> None:
        """Announce what will be hosted; as long as nothing is, that nobody should send anything."""
        announcement = self._announcement(span, room, intends=intends)
        record = sign_announcement(self._identity, announcement)
        try:
            await self._directory.announce(announcement.topic, record)
        except BrigadeError as error:
            log.warning("announce_failed", error=str(error))

    async def _wait(self, node: Node) -> None:
        """Until it is time to look, a while that differs for each; sooner if there is a hole."""
        uniform, settings = self._chance.uniform, self._settings
        deadline = time.monotonic() + settings.move_check_seconds * uniform(0.5, 1.5)
        await asyncio.sleep(settings.settle_seconds * uniform(0.2, 1.5))
        while time.monotonic() < deadline and not self._is_out(node):  # noqa: ASYNC110
            await asyncio.sleep(min(LOOK_SECONDS, settings.settle_seconds))

    async def _move(self, node: Node, *, before: PeerId | None) -> Choice | None:
        await self._refresh()
        view = self._view_with(node)
        seen = survey(view, self._spec.num_blocks, before=before)
        return await asyncio.to_thread(  # it may compute for seconds in a large swarm
            should_move,
            seen,
            self.peer,
            reload_seconds=self.reload_seconds,
            hole_seconds=self._bare_seconds(view),
        )

    def _view_with(self, node: Node) -> SwarmView:
        """What others say, and what this worker would say now."""
        return {**self._watcher.view, self.peer: node.announcement()}

    def _is_out(self, node: Node) -> bool:
        """Whether some block has, or will soon have, nobody who serves it."""
        return survey(self._view_with(node), self._spec.num_blocks).is_out

    def _is_torn_beside(self, node: Node) -> bool:
        """Whether nobody serves some block, though this worker still does its own."""
        return is_torn(self._view_with(node), self._spec.num_blocks)

    def _bare_seconds(self, view: SwarmView) -> float:
        """For how long some block has had no worker that serves it, as far as was looked."""
        if not is_torn(view, self._spec.num_blocks):
            self._bare_since = None
            return 0.0
        self._bare_since = self._bare_since or time.monotonic()
        return time.monotonic() - self._bare_since

    async def _choice(self, room: Room, preferred: Span | None) -> Span:
        """What a newcomer would take by what is known now; tells of it when that changes."""
        seen = await self._others(before=self.peer if preferred else None)
        choice = choose_span(
            seen, room.num_blocks, room.speed, self._chance.random, preferred=preferred
        )
        if choice.span != preferred:
            say(
                f"sees {len(seen.hostings)} others; blocks {choice.span} need it most: "
                f"{reason(seen, choice.span)}"
            )
        return choice.span

    async def _others(self, *, before: PeerId | None = None) -> Survey:
        """What the swarm is like without this worker."""
        await self._refresh()
        view = {peer: one for peer, one in self._watcher.view.items() if peer != self.peer}
        return survey(view, self._spec.num_blocks, before=before)

    async def _refresh(self) -> None:
        try:
            await self._watcher.refresh()
        except PeerUnreachable as error:
            log.debug("lookup_failed", error=str(error))

    def _announcement(self, span: Span, room: Room, *, intends: bool) -> Announcement:
        settings, spec = self._settings, self._spec
        return Announcement(
            worker=self.peer,
            swarm=settings.swarm,
            model=spec.name,
            revision=spec.revision,
            span=span,
            num_blocks=spec.num_blocks,
            # nobody dials who is leaving; port 9 is where nothing is served
            url=settings.public_url
            or reachable_url(settings.host, settings.port or 9, has_tls=False),
            dtype="",
            sequence=int(time.time() * 1000),
            issued_at=time.time(),
            lease_seconds=settings.lease_seconds,
            leaving=True,
            speed=self.speed.told or room.speed,
            fits=room.num_blocks,
            next_span=span,
            intends=intends,
        )
