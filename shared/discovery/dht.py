# pyright: reportPrivateUsage=false, reportMissingTypeStubs=false
"""Kademlia as far as a swarm needs it: finding the servers closest to a key."""

import contextlib
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import trio
from libp2p.abc import IHost
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.peer_routing import PeerRouting
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStoreError
from libp2p.records.validator import NamespacedValidator

from shared.discovery.libp2p_patches import KAD_PROTOCOL, QUERY_SECONDS
from shared.discovery.strikes import Strikes

MAX_INBOUND_QUERIES = 256
DISCONNECT_SECONDS = 0.5
IDENTIFY_SECONDS = 1.0
IDENTIFY_POLL_SECONDS = 0.02


class Dht(KadDHT):
    """A DHT node that stores nothing for others and keeps hanging peers out of its table."""

    def __init__(self, host: IHost, *, is_server: bool) -> None:
        # A validator that knows no namespace refuses every value: nobody fills our memory.
        super().__init__(
            host,
            DHTMode.SERVER if is_server else DHTMode.CLIENT,
            validator=NamespacedValidator({}, strict_validation=True),
            validator_changed=True,
            strict_validation=True,
        )
        self.strikes: Strikes[ID] = Strikes(trio.current_time)
        self.routing_table = ServerTable(host, self.strikes)
        self.peer_routing = PatientRouting(host, self.routing_table, self.strikes)
        self.provider_store.peer_routing = self.peer_routing
        self.provider_store.add_provider = _keep_no_provider
        self._inbound_limiter = trio.CapacityLimiter(MAX_INBOUND_QUERIES)  # 12 by default

    async def closest_servers(self, key: bytes, count: int) -> list[ID]:
        """The live servers closest to a key, this node among them when it is one."""
        # Twice as many as needed, not the default 20, which costs two to three times more.
        found = await self.peer_routing.find_closest_peers_network(key, 2 * count)
        if self.mode == DHTMode.SERVER:
            found.append(self.host.get_id())
        return sort_peer_ids_by_distance(key, list(dict.fromkeys(found)))[:count]


class ServerTable(RoutingTable):
    """A routing table without DHT clients and without peers that are out."""

    def __init__(self, host: IHost, strikes: Strikes[ID]) -> None:
        super().__init__(host.get_id(), host)
        self._strikes = strikes

    async def add_peer(
        self, peer_obj: PeerInfo | ID, *, skip_server_mode_check: bool = False
    ) -> bool:
        peer = peer_obj.peer_id if isinstance(peer_obj, PeerInfo) else peer_obj
        if self._strikes.is_out(peer):
            return False
        # The check is skipped for whoever opens a query stream, which clients do as well.
        if skip_server_mode_check and KAD_PROTOCOL not in await self._protocols(peer):
            return False
        return await super().add_peer(peer_obj)

    async def _protocols(self, peer: ID) -> Sequence[str]:
        """What a connected peer speaks, as soon as that is known.

        Both sides ask when a connection opens, and a newcomer's first query may be faster: without
        waiting, a bootstrap node would keep its first members from finding each other.
        """
        with trio.move_on_after(IDENTIFY_SECONDS):
            while True:
                with contextlib.suppress(PeerStoreError):
                    if protocols := self.host.get_peerstore().get_protocols(peer):
                        return protocols
                await trio.sleep(IDENTIFY_POLL_SECONDS)
        return ()


@dataclass
class _Tally:
    """How the peers asked in one lookup did."""

    answered: set[ID] = field(default_factory=set[ID])
    failed: list[ID] = field(default_factory=list[ID])


_tally: ContextVar[_Tally] = ContextVar("_tally")


class PatientRouting(PeerRouting):
    """Lookups that return only peers that answered, and strike those that did not."""

    def __init__(self, host: IHost, table: RoutingTable, strikes: Strikes[ID]) -> None:
        super().__init__(host, table)
        self._strikes = strikes

    async def find_closest_peers_network(self, target_key: bytes, count: int = 20) -> list[ID]:
        tally = _Tally()
        token = _tally.set(tally)
        try:
            found = await super().find_closest_peers_network(target_key, count)
        finally:
            _tally.reset(token)
        num_asked = len(tally.answered) + len(tally.failed)
        for peer in self._strikes.judge(tally.failed, num_asked=num_asked):
            await self.drop(peer)
        return [peer for peer in found if peer in tally.answered]

    async def drop(self, peer: ID) -> None:
        """Take a peer that is out from the table, and its dead connection with it."""
        self.routing_table.remove_peer(peer)
        with trio.move_on_after(DISCONNECT_SECONDS):
            await self.host.disconnect(peer)

    async def _query_single_peer_for_closest(
        self, peer: ID, target_key: bytes, new_peers: list[ID]
    ) -> None:
        if self._strikes.is_out(peer):
            return
        began = trio.current_time()
        with trio.move_on_after(QUERY_SECONDS + DISCONNECT_SECONDS):
            await super()._query_single_peer_for_closest(peer, target_key, new_peers)
        is_hanging = trio.current_time() - began >= QUERY_SECONDS
        if is_hanging or peer not in self.host.get_connected_peers():
            _tally.get().failed.append(peer)
        else:
            self._strikes.answered(peer)
            _tally.get().answered.add(peer)


def _keep_no_provider(key: bytes, provider: PeerInfo) -> None:
    """Provider records live for 48 h, without a bound on their number."""
