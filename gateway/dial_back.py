"""Dials workers that ask whether they can be dialled, and lets nobody scan others through it.

A worker is dialled at the port that it has announced, under its signature, at the address that it
comes from and at no other, and is reached if it proves there to be itself. In vain, all dials take
the same time: what listens there, if anything, is not told. Who asks too often is not answered.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address

import structlog

from shared.errors import PeerUnreachable, ProtocolError, RecordError
from shared.records import open_record
from shared.swarm import Announcement, PeerId
from shared.wire.dialling import addresses_of
from shared.wire.link import Link, LinkPool
from shared.wire.messages import DialledBack, DialOutcome

log = structlog.get_logger()

DIAL_SECONDS = 6.0
"""What a dial in vain takes."""
MAX_DIALS = 64
"""Dials under way."""
BURST_PER_ADDRESS = 16
SECONDS_PER_DIAL = 4.0
"""Of one address: after a burst, one dial in so many seconds."""
MAX_ADDRESSES = 4096


class DialBacks:
    """Answers those who ask to be dialled."""

    def __init__(self, pool: LinkPool, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock
        self._paid_until: OrderedDict[str, float] = OrderedDict()
        self._dials: dict[PeerId, asyncio.Task[None]] = {}

    def ask(self, link: Link, record: bytes) -> None:
        """Answer soon, over the same link. Raises ProtocolError for what no worker would ask."""
        try:
            announcement = open_record(record)
        except RecordError as error:
            raise ProtocolError(f"asks to be dialled by a {error}") from error
        if announcement.worker != link.peer or announcement.swarm != self._pool.swarm:
            raise ProtocolError(f"asks us to dial {announcement.worker}, and is {link.peer}")
        if not announcement.url:
            raise ProtocolError("asks to be dialled and announces no address")
        if link.peer in self._dials or len(self._dials) >= MAX_DIALS or not self._pay(link.address):
            _tell(link, "busy")
            return
        dial = self._dials[link.peer] = asyncio.create_task(self._answer(link, announcement))
        dial.add_done_callback(lambda done: self._done(link.peer, done))

    async def close(self) -> None:
        """Dial no more."""
        dials = list(self._dials.values())
        for dial in dials:
            dial.cancel()
        await asyncio.gather(*dials, return_exceptions=True)

    async def _answer(self, link: Link, announcement: Announcement) -> None:
        outcome = await self._outcome(link, announcement)
        log.info("dialled_back", peer=link.peer, url=announcement.url, outcome=outcome)
        _tell(link, outcome)

    async def _outcome(self, link: Link, announcement: Announcement) -> DialOutcome:
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                if not await _is_at(link.address, announcement.url):
                    return "elsewhere"
                url, certificate = announcement.url, announcement.certificate
                if await self._pool.reaches(link.peer, url, certificate, link.address):
                    return "reached"
        except TimeoutError:
            return "unreached"
        await asyncio.sleep(began + DIAL_SECONDS - asyncio.get_running_loop().time())
        return "unreached"

    def _pay(self, address: str) -> bool:
        """Whether an address may have one more dial; those that asked longest ago are forgotten."""
        now = self._clock()
        paid_until = max(self._paid_until.pop(address, now), now) + SECONDS_PER_DIAL
        is_too_much = paid_until - now > BURST_PER_ADDRESS * SECONDS_PER_DIAL
        self._paid_until[address] = paid_until - SECONDS_PER_DIAL * is_too_much
        while len(self._paid_until) > MAX_ADDRESSES:
            self._paid_until.popitem(last=False)
        return not is_too_much

    def _done(self, peer: PeerId, dial: asyncio.Task[None]) -> None:
        del self._dials[peer]
        if not dial.cancelled() and (error := dial.exception()):
            log.error("dial_back_failed", peer=peer, exc_info=error)


async def _is_at(address: str, url: str) -> bool:
    """Whether a URL's host is this address."""
    try:
        found = await addresses_of(url)
    except (OSError, UnicodeError):
        return False
    return bool(address) and _plain(address) in map(_plain, found)


def _plain(address: str) -> str:
    """An address without its zone, and as IPv4 where it is one of those in IPv6."""
    parsed = ip_address(address.partition("%")[0])
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _tell(link: Link, outcome: DialOutcome) -> None:
    try:
        link.post(DialledBack(outcome, _plain(link.address) if link.address else ""))
    except PeerUnreachable as error:
        log.debug("dial_back_not_told", peer=link.peer, error=str(error))
