# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
"""A member of the swarm's DHT, on trio: finds the holders of a topic, tells them and asks them.

Kademlia only locates the NUM_HOLDERS servers closest to a topic's key; those hold the topic's
announcements. What a holder says is believed only as far as the signed records go.
"""

import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from shared.discovery import peer_cache
from shared.discovery.dht import Dht
from shared.discovery.directory import Sighting
from shared.discovery.holder import HOLDER_PROTOCOL, Holder, HolderCalls
from shared.discovery.holder_messages import Get, NotTaken, Page, Put, Reply, Request, Taken
from shared.discovery.holder_set import NUM_HOLDERS, Cursor, HolderSet
from shared.discovery.libp2p_patches import forget_failed_dial, make_host
from shared.discovery.multiaddrs import member_address, parse_member
from shared.discovery.shelf import Shelf
from shared.errors import ConfigError, PeerUnreachable, RecordError
from shared.identity import Identity
from shared.records import directory_key, open_record

log = structlog.get_logger()

JOIN_SECONDS = 4.0
CLOSE_SECONDS = 2.0
FIND_SECONDS = 8.0
WATCH_JOINED_SECONDS = 2.0
LONGEST_JOIN_PAUSE_SECONDS = 30.0
FEW_MEMBERS = 3
"""With fewer servers known than this, a node looks around, and dials those remembered on disk."""
MAX_PAGES = 64
MAX_TOLD_MEMBERS = 64
WARNING_SECONDS = 60.0


@dataclass(frozen=True)
class NodeConfig:
    """What a node is told, parsed."""

    identity: Identity
    listen: Multiaddr
    join: tuple[PeerInfo, ...]
    announced: tuple[Multiaddr, ...]
    is_server: bool
    peer_cache: Path | None


class Node:
    """One libp2p host with its DHT and, on a server, its holder."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._host = make_host(config.identity, config.announced)
        self._dht = Dht(self._host, is_server=config.is_server)
        self._holder = Holder(Shelf(clock=time.time, monotonic=time.monotonic))
        self._calls = HolderCalls(self._host)
        self._seen = Shelf(clock=time.time, monotonic=time.monotonic)
        self._topics: dict[str, HolderSet[ID]] = {}
        self._finding: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._unreached: set[ID] = set()
        self._saved: list[str] = []
        self._told: dict[ID, PeerInfo] = {}
        self._next_warning = 0.0

    @property
    def bound(self) -> list[Multiaddr]:
        """Where it listens, without the peer id."""
        return self._host.get_transport_addrs()

    @property
    def multiaddrs(self) -> list[str]:
        """What others may dial, with the peer id."""
        return [str(address) for address in self._host.get_addrs()]

    @property
    def num_members(self) -> int:
        """How many DHT servers it knows beside itself."""
        return self._dht.routing_table.size()

    async def run(self, ready: Callable[["Node"], None]) -> None:
        """Be a member until cancelled; `ready` is called once it has tried to join."""
        listening, leaving = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_host, listening, leaving)
            try:
                await listening.wait()
                await self._live(ready)
            finally:
                leaving.set()

    async def _run_host(self, listening: trio.Event, leaving: trio.Event) -> None:
        """Run the library's tasks, shielded: those that are cancelled leak their sockets."""
        with trio.CancelScope(shield=True):  # pyright: ignore[reportCallIssue]  # as in thread.py
            async with self._host.run(listen_addrs=[self._config.listen]):
                if not self.bound:
                    raise ConfigError(f"cannot listen on {self._config.listen}")
                listening.set()
                await leaving.wait()
                with trio.move_on_after(CLOSE_SECONDS):
                    await self._host.close()

    async def _live(self, ready: Callable[["Node"], None]) -> None:
        if self._config.is_server:
            self._host.set_stream_handler(HOLDER_PROTOCOL, self._holder.serve)
        await self._join()
        async with background_trio_service(self._dht):
            ready(self)
            await self._keep_joined()

    async def announce(self, topic: str, record: bytes) -> int:
        """Hand a record to the topic's holders; how many have it now."""
        request = Put(topic, record)
        replies = await self._ask_holders(topic, lambda _: request)
        for holder, reply in replies.items():
            if isinstance(reply, NotTaken):
                self._warn_refused(topic, holder, RecordError(reply.reason))
        return sum(isinstance(reply, Taken) for reply in replies.values())

    async def lookup(self, topic: str) -> list[Sighting]:
        """Every record that any holder of the topic ever told us and that still counts."""
        known = self._topics.setdefault(topic, HolderSet())
        for _ in range(MAX_PAGES):
            replies = await self._ask_holders(topic, lambda p: _next_page(topic, known, p))
            pages = {p: reply for p, reply in replies.items() if isinstance(reply, Page)}
            self._take(topic, known, pages)
            if all(page.is_last for page in pages.values()):
                break
        return self._seen.sightings(topic)

    async def _ask_holders(self, topic: str, request: Callable[[ID], Request]) -> dict[ID, Reply]:
        """The replies of those holders of a topic that answer."""
        known = await self._holders(topic)
        holders = [p for p in known.holders if not self._dht.strikes.is_out(p)]
        replies: dict[ID, Reply] = {}

        async def ask(holder: ID) -> None:
            reply = await self._ask(holder, request(holder))
            if reply is not None:
                replies[holder] = reply

        async with trio.open_nursery() as nursery:
            for holder in holders:
                nursery.start_soon(ask, holder)
        known.asked(trio.current_time(), num_failed=len(known.holders) - len(replies))
        return replies

    async def _ask(self, holder: ID, request: Request) -> Reply | None:
        if holder == self._host.get_id():
            return self._holder.answer(request)
        try:
            reply = await self._calls.ask(holder, request)
        except PeerUnreachable as error:
            log.debug("holder_failed", holder=str(holder), error=str(error))
            if self._dht.strikes.failed(holder):
                await self._dht.peer_routing.drop(holder)
            return None
        self._dht.strikes.answered(holder)
        return reply

    async def _holders(self, topic: str) -> HolderSet[ID]:
        known = self._topics.setdefault(topic, HolderSet())
        async with self._finding[topic]:  # whoever had to wait finds it done
            if known.is_due(trio.current_time(), self.num_members):
                found = known.holders
                with trio.move_on_after(FIND_SECONDS):
                    found = await self._dht.closest_servers(directory_key(topic), NUM_HOLDERS)
                jitter = random.uniform(0.8, 1.2)
                known.found(found, trio.current_time(), self.num_members, jitter=jitter)
        return known

    def _take(self, topic: str, known: HolderSet[ID], pages: dict[ID, Page]) -> None:
        for holder, page in pages.items():
            known.cursors[holder] = Cursor(page.mark, page.cursor)
            for held in page.held:
                try:
                    self._seen.put(topic, held.record, remaining_seconds=held.remaining_seconds)
                    self._hear_of_member(held.record)
                except RecordError as error:
                    self._warn_refused(topic, holder, error)

    def _hear_of_member(self, record: bytes) -> None:
        """Remember whom a worker's announcement names, while we know hardly anybody."""
        if self.num_members >= FEW_MEMBERS or len(self._told) >= MAX_TOLD_MEMBERS:
            return
        address = open_record(record).node
        with contextlib.suppress(ConfigError):
            member = parse_member(address)
            self._told[member.peer_id] = member

    def _warn_refused(self, topic: str, holder: ID, error: RecordError) -> None:
        if trio.current_time() >= self._next_warning:
            self._next_warning = trio.current_time() + WARNING_SECONDS
            log.warning("record_refused", topic=topic, holder=str(holder), error=str(error))

    async def _keep_joined(self) -> None:
        """Dial lost or unreached members again, for as long as the node lives.

        Members given by the operator are dialled even when others are known: two halves of a
        swarm that were apart find each other that way.
        """
        pause = WATCH_JOINED_SECONDS
        while True:
            await trio.sleep(pause)
            has_joined = await self._join()
            if has_joined or self.num_members < FEW_MEMBERS:
                await self._dht.peer_routing.refresh_routing_table()
            if has_joined:
                for known in self._topics.values():
                    known.forget()
            self._save_members()
            is_whole = not self._unreached
            pause = WATCH_JOINED_SECONDS if is_whole else min(2 * pause, LONGEST_JOIN_PAUSE_SECONDS)

    async def _join(self) -> bool:
        """Dial the members we should know and have no connection to; whether one is new."""
        connected = set(self._host.get_connected_peers()) | {self._host.get_id()}
        missing = {m.peer_id: m for m in self._config.join if m.peer_id not in connected}
        knows_few = self.num_members < FEW_MEMBERS
        remembered = {**self._told, **self._remembered()} if knows_few else {}
        reached: set[ID] = set()

        async def dial(member: PeerInfo) -> None:
            if await self._dial(member):
                reached.add(member.peer_id)

        async with trio.open_nursery() as nursery:
            for peer, member in {**remembered, **missing}.items():
                if peer not in connected:
                    nursery.start_soon(dial, member)
        self._log_unreached([m for m in missing.values() if m.peer_id not in reached])
        return bool(reached)

    async def _dial(self, member: PeerInfo) -> bool:
        forget_failed_dial(self._host, member.peer_id)
        try:
            with trio.fail_after(JOIN_SECONDS):
                await self._host.connect(member)
                await self._dht.routing_table.add_peer(member)
        except Exception as error:  # libp2p's dials raise many unrelated classes
            log.debug("member_unreachable", member=member_address(member), error=repr(error))
            return False
        return True

    def _log_unreached(self, members: list[PeerInfo]) -> None:
        """Warn of members that cannot be reached, once each time that happens anew."""
        news = [m for m in members if m.peer_id not in self._unreached]
        self._unreached = {m.peer_id for m in members}
        if news:
            addresses = [member_address(m) for m in news]
            log.warning("cannot_join", members=addresses, hint="will keep trying")

    def _remembered(self) -> dict[ID, PeerInfo]:
        path = self._config.peer_cache
        members: dict[ID, PeerInfo] = {}
        for text in peer_cache.load(path) if path else []:
            try:
                member = parse_member(text)
            except ConfigError:
                continue
            members[member.peer_id] = member
        return members

    def _save_members(self) -> None:
        infos = self._dht.routing_table.get_peer_infos()
        members = sorted(member_address(info) for info in infos if info.addrs)
        if self._config.peer_cache and members and members != self._saved:
            peer_cache.save(self._config.peer_cache, members)
            self._saved = members


def _next_page(topic: str, known: HolderSet[ID], holder: ID) -> Get:
    cursor = known.cursors.get(holder, Cursor())
    return Get(topic, cursor.mark, cursor.version)
