"""Clients of a chaos run: each asks again as soon as it is answered, until it is enough."""

import asyncio
import random
import re
import time
from collections.abc import Mapping
from typing import Protocol

import httpx

from tests.swarm.ledger import Ledger
from tests.swarm.streams import Hearing, Request

REFUSED_PAUSE_SECONDS = 1.0
NO_ROUTE = "no_worker_available"
GAVE_UP = re.compile(r"worker_lost: no worker took over blocks ([\d:, ]+) within (\d+) s")
AT_ONCE_SECONDS = 10.0
"""Within which a gateway says at the door that it sees nobody. Later it has begun a stream, whose
client may expect that it goes on as soon as anybody can take over."""
NOTICE_SECONDS = 1.0
"""Which of two that are hit one after the other a gateway may miss first."""


class WereBare(Protocol):
    """See Population.were_bare."""

    def __call__(
        self, gaps: str, start: float, end: float, *, throughout: bool = False
    ) -> bool: ...


class Crowd:
    """Some clients, and what they should hear."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        wanted: Mapping[str, Request],
        expected: Mapping[str, Hearing],
        ledger: Ledger,
        were_bare: WereBare,
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._expected = expected
        self._ledger = ledger
        self._were_bare = were_bare
        self._is_enough = asyncio.Event()
        self._live: dict[asyncio.Task[None], Hearing] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens of the streams that go on."""
        return sum(len(hearing.arrivals) for hearing in self._live.values())

    @property
    def silence(self) -> float:
        """How long the stream that waits longest has waited for a token."""
        now = time.monotonic()
        waits = (now - [h.began, *h.arrivals][-1] for h in self._live.values())
        return max(waits, default=0.0)

    async def ask(self, num_clients: int, seed: int) -> None:
        """Have that many clients ask at the same time until it is enough."""
        async with asyncio.TaskGroup() as group:
            for client in range(num_clients):
                group.create_task(self._keep_asking(random.Random(f"{seed}/{client}")))

    def enough(self) -> None:
        """What has begun may end; nothing new is asked."""
        self._is_enough.set()

    def disconnect(self, pick: float) -> bool:
        """Have a client go away in mid-stream; whether there is one."""
        begun = [task for task, hearing in self._live.items() if hearing.arrivals]
        return bool(begun) and begun[int(pick * len(begun))].cancel()

    async def _keep_asking(self, rng: random.Random) -> None:
        while not self._is_enough.is_set():
            name = rng.choice(list(self._wanted))
            hearing = Hearing(self._wanted[name])
            task = asyncio.create_task(hearing.listen(self._client))
            self._live[task] = hearing
            await asyncio.wait({task})
            del self._live[task]
            if task.cancelled():
                self._ledger.left += 1
            else:
                task.result()
            await self._note(name, hearing, is_whole=not task.cancelled())

    async def _note(self, name: str, hearing: Hearing, *, is_whole: bool) -> None:
        ledger = self._ledger
        ledger.heard(hearing.began, hearing.arrivals)
        ledger.tokens += len(hearing.arrivals)
        if is_whole and hearing.failure:
            await self._failed(name, hearing)
            is_whole = False
        verdict = hearing.judge(self._expected[name], is_whole=is_whole)
        ledger.wrong += verdict.wrong
        ledger.lost += verdict.lost
        if verdict.wrong or verdict.lost:
            heard, expected = hearing.text, self._expected[name].text
            ledger.complain(f"{name!r}: {verdict}; heard {heard!r}, expected {expected!r}")

    async def _failed(self, name: str, hearing: Hearing) -> None:
        """The client is told, and asks again; whose fault it was is for the ledger."""
        now = time.monotonic()
        if self.had_nobody(hearing, now):
            self._ledger.refused += 1
            await asyncio.sleep(REFUSED_PAUSE_SECONDS)
        else:
            self._ledger.fail(now, name, hearing.failure)

    def had_nobody(self, hearing: Hearing, now: float) -> bool:
        """Whether a stream ended as it should, as we had left nobody to serve it.

        A gateway that sees no worker for a span says so at once. One that has begun a stream waits
        for somebody, and may give up only if nobody was there all along.
        """
        if gave_up := GAVE_UP.match(hearing.failure):
            start = now - float(gave_up[2]) + NOTICE_SECONDS
            return self._were_bare(gave_up[1], start, now, throughout=True)
        if not hearing.failure.startswith(NO_ROUTE) or hearing.arrivals:
            return False
        if now - hearing.began < AT_ONCE_SECONDS:
            return self._were_bare(hearing.failure, hearing.began - 1, now)
        start = hearing.began + NOTICE_SECONDS
        return self._were_bare(hearing.failure, start, now, throughout=True)
