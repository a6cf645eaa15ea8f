"""How others reach this worker: at an address of its own, or through the gateways it attaches to.

It asks gateways to dial it back before it announces an address, and later again now and then, as
a router may be set up or a network left meanwhile.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import structlog

from shared.dial_back import DialBacks
from shared.discovery.directory import Directory
from shared.discovery.watcher import Watcher
from shared.errors import PeerUnreachable
from shared.swarm import PeerId, gateways_topic
from shared.wire.link import LinkPool
from shared.wire.messages import DialOutcome
from worker.attachments import Attachments
from worker.reachability import Attach, Verdict, as_told, judged

log = structlog.get_logger()

POLL_SECONDS = 2.0
NUM_LOOKS = 3
LOOK_SECONDS = 0.5
"""So often, and with such pauses, gateways are looked for before the first announcement."""
NUM_ASKED = 3
ATTACH_SECONDS = 10.0
"""How long a start waits for the first gateway to attach to."""
UNSURE_SECONDS = 5.0
SURE_SECONDS = 600.0
"""Time until the next look, by whether the last one found somebody to ask."""


class Reaching:
    """One worker's way to be reached. `verdict` says which it is, once it has settled."""

    def __init__(
        self,
        pool: LinkPool,
        dial_backs: DialBacks,
        *,
        attach: Attach,
        wanted: int,
        is_alone: bool,
        is_given: bool,
    ) -> None:
        """`wanted` gateways are attached to. `is_given` if an operator gave the address,
        `is_alone` where the swarm is on this machine only."""
        self.verdict = Verdict(True, False, "")
        self._pool = pool
        self._dial_backs = dial_backs
        self._attach: Attach = attach
        self._wanted = wanted
        self._is_alone = is_alone
        self._is_given = is_given
        self._attachments: Attachments | None = None
        self._attached = asyncio.Event()
        self._watcher: Watcher | None = None

    @property
    def attached(self) -> tuple[PeerId, ...]:
        """The gateways it is attached to, if nobody can dial it."""
        return self._attachments.peers if self._attachments else ()

    def lost(self, peer: PeerId) -> None:
        """A link has ended."""
        if self._attachments:
            self._attachments.lost(peer)

    @asynccontextmanager
    async def settled(
        self,
        directory: Directory,
        topic: str,
        url: str,
        record: Callable[[], bytes],
        on_changed: Callable[[], None],
    ) -> AsyncGenerator[None]:
        """Find out how others reach this worker, then see to it until the end.

        `record` makes the announcement of the address `url`; `on_changed` is called when there is
        something else to announce.
        """
        told = as_told(self._attach, url, is_alone=self._is_alone)
        if told and told.is_direct:
            self.verdict = told
            yield
            return
        self._watcher = Watcher(
            directory, gateways_topic(topic), who="gateway", poll_seconds=POLL_SECONDS
        )
        self._watcher.linked = lambda: {link.peer for link in self._pool.open_links()}
        self.verdict = told or await self._first_look(url, record)
        await self._watcher.start()
        tasks = [] if told else [asyncio.create_task(self._look_again(url, record, on_changed))]
        keeping = asyncio.create_task(self._keep_attached(on_changed))
        try:
            await self._wait_attached()
            yield
        finally:
            for task in (*tasks, keeping):
                task.cancel()
            await asyncio.gather(*tasks, keeping, return_exceptions=True)
            await self._watcher.stop()

    async def _wait_attached(self) -> None:
        if self.verdict.is_direct:
            return
        try:
            async with asyncio.timeout(ATTACH_SECONDS):
                await self._attached.wait()
        except TimeoutError:
            log.warning(
                "attached_nowhere",
                effect="nobody can reach this worker, so it is not announced; it keeps looking",
                remedy="start a gateway of this model with --attach-host",
            )

    async def _keep_attached(self, on_changed: Callable[[], None]) -> None:
        """Hold attachments while nobody can dial us."""
        assert self._watcher is not None
        watcher = self._watcher

        def changed() -> None:
            if self.attached:
                self._attached.set()
            on_changed()

        while True:
            if not self.verdict.is_direct:
                self._attachments = Attachments(
                    self._pool, lambda: watcher.view, wanted=self._wanted, on_changed=changed
                )
                keeping = asyncio.create_task(self._attachments.keep())
                try:
                    await self._until(lambda: self.verdict.is_direct)
                finally:
                    keeping.cancel()
                    await asyncio.gather(keeping, return_exceptions=True)
                    self._attachments = None
            await self._until(lambda: not self.verdict.is_direct)

    async def _until(self, claim: Callable[[], bool]) -> None:
        while not claim():  # noqa: ASYNC110 - what is claimed has no event
            await asyncio.sleep(LOOK_SECONDS)

    async def _first_look(self, url: str, record: Callable[[], bytes]) -> Verdict:
        assert self._watcher is not None
        for number in range(NUM_LOOKS):
            await asyncio.sleep(LOOK_SECONDS if number else 0)
            try:
                await self._watcher.refresh()
            except PeerUnreachable as error:
                log.debug("gateways_not_looked_up", error=str(error))
            if self._watcher.view:
                break
        return await self._look(url, record)

    async def _look_again(
        self, url: str, record: Callable[[], bytes], on_changed: Callable[[], None]
    ) -> None:
        while True:
            pause = SURE_SECONDS if self.verdict.is_sure else UNSURE_SECONDS
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            verdict = await self._look(url, record)
            if verdict.is_sure and verdict != self.verdict:
                log.info("reach_changed", is_direct=verdict.is_direct, why=verdict.why)
                self.verdict = verdict
                on_changed()

    async def _look(self, url: str, record: Callable[[], bytes]) -> Verdict:
        """Ask gateways, one after the other, until one has got through or enough have tried."""
        assert self._watcher is not None
        gateways = [one for one in self._watcher.view.values() if not one.leaving]
        outcomes: list[DialOutcome] = []
        for gateway in random.sample(gateways, k=min(len(gateways), NUM_ASKED)):
            began = time.monotonic()
            answer = await self._dial_backs.ask(gateway, record())
            outcome = answer.outcome if answer else None
            log.debug(
                "asked_to_dial_back",
                gateway=gateway.worker,
                outcome=outcome,
                seconds=time.monotonic() - began,
            )
            if outcome:
                outcomes.append(outcome)
            if outcome == "reached":
                break
        return judged(url, is_given=self._is_given, outcomes=outcomes)
