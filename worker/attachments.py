"""Keeps a worker that nobody can dial attached to several gateways."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

import structlog

from shared.errors import PeerUnreachable
from shared.swarm import Announcement, PeerId, SwarmView
from shared.wire.link import LinkPool

log = structlog.get_logger()

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""Between two dials of one gateway: at first and at most, doubling each time it is in vain."""
LOOK_SECONDS = 0.5


class Redials:
    """When a gateway may be dialled again. Pure: time and chance come in."""

    def __init__(self) -> None:
        self._fails: dict[PeerId, int] = {}
        self._due_at: dict[PeerId, float] = {}

    def may_dial(self, gateway: PeerId, now: float) -> bool:
        """Whether its time has come."""
        return now >= self._due_at.get(gateway, 0.0)

    def dialled(self, gateway: PeerId, now: float, *, is_linked: bool, chance: float) -> None:
        """It was dialled at this moment. `chance`, from 0 to 1, keeps many from coming at once."""
        fails = self._fails[gateway] = 0 if is_linked else self._fails.get(gateway, 0) + 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(fails, 16), LONGEST_PAUSE_SECONDS)
        self._due_at[gateway] = now + pause * (0.5 + chance)

    def keep_only(self, gateways: SwarmView) -> None:
        """Forget those that are gone."""
        self._fails = {one: n for one, n in self._fails.items() if one in gateways}
        self._due_at = {one: at for one, at in self._due_at.items() if one in gateways}


class Attachments:
    """Links that this worker holds to gateways, so that they and others reach it."""

    def __init__(
        self,
        pool: LinkPool,
        gateways: Callable[[], SwarmView],
        *,
        wanted: int,
        on_changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`gateways` are those that may be attached to at the moment, `wanted` how many to keep."""
        self.peers: tuple[PeerId, ...] = ()
        """The gateways it is attached to."""
        self._pool = pool
        self._gateways = gateways
        self._wanted = wanted
        self._on_changed = on_changed
        self._clock = clock
        self._redials = Redials()
        self._wake = asyncio.Event()

    def lost(self, peer: PeerId) -> None:
        """A link has ended: look at once for another."""
        if peer in self.peers:
            log.warning("gateway_lost", gateway=peer)
            self._wake.set()

    async def keep(self) -> None:
        """Attach, and attach again, until cancelled."""
        while True:
            self._wake.clear()
            view = self._gateways()
            self._redials.keep_only(view)
            chosen = self._missing(view)
            await asyncio.gather(*map(self._dial, chosen))
            self._note(self._gateways())
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _missing(self, view: SwarmView) -> Sequence[Announcement]:
        """Whom to dial now: any that take workers, in no order, so that all get their part."""
        num_linked = sum(self._pool.get(peer) is not None for peer in view)
        may = [
            one
            for one in view.values()
            if not (one.leaving or self._pool.get(one.worker))
            and self._redials.may_dial(one.worker, self._clock())
        ]
        return random.sample(may, k=min(len(may), max(0, self._wanted - num_linked)))

    async def _dial(self, gateway: Announcement) -> None:
        is_linked = True
        try:
            await self._pool.connect(gateway.worker, gateway.url, gateway.certificate)
        except PeerUnreachable as error:
            log.warning("gateway_unreachable", gateway=gateway.worker, error=str(error))
            is_linked = False
        self._redials.dialled(
            gateway.worker, self._clock(), is_linked=is_linked, chance=random.random()
        )

    def _note(self, view: SwarmView) -> None:
        linked = tuple(sorted(peer for peer in view if self._pool.get(peer)))[: self._wanted]
        if linked != self.peers:
            self.peers = linked
            log.info("attached", gateways=list(linked))
            self._on_changed()
