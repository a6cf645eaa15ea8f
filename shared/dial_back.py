"""Asks gateways to dial us back, so that we know whether we can be dialled before we say so."""

import asyncio

from shared.errors import PeerUnreachable
from shared.swarm import Announcement, PeerId
from shared.wire.link import LinkPool
from shared.wire.messages import DialBack, DialledBack

ANSWER_SECONDS = 15.0
"""A gateway that dials in vain takes 6 s; the rest is for reaching the gateway."""


class DialBacks:
    """Questions to gateways, over the links of a pool. Answers are handed to `heard`."""

    def __init__(self, pool: LinkPool) -> None:
        self._pool = pool
        self._waiting: dict[PeerId, asyncio.Future[DialledBack]] = {}

    async def ask(self, gateway: Announcement, record: bytes) -> DialledBack | None:
        """What a gateway says that dialled the address in our record; None without an answer."""
        peer = gateway.worker
        answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                link = await self._pool.connect(peer, gateway.url, gateway.certificate)
                self._waiting[peer] = answer
                link.post(DialBack(record))
                return await answer
        except (PeerUnreachable, TimeoutError):
            return None
        finally:
            self._waiting.pop(peer, None)

    def heard(self, gateway: PeerId, answer: DialledBack) -> None:
        """A gateway has answered; nobody may have asked."""
        waiting = self._waiting.pop(gateway, None)
        if waiting and not waiting.done():
            waiting.set_result(answer)
