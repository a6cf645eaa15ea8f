# pyright: reportPrivateUsage=false, reportMissingTypeStubs=false
"""A py-libp2p 0.8.1 host fit for a swarm: each patch with its reason.

Most of what needs changing has no setting, so that module constants and private attributes are
set here and nowhere else. `tests/shared/test_kademlia.py` fails when a new version moves them.
"""

import logging
from collections.abc import Sequence

import libp2p.kad_dht.common as kad_common
import libp2p.kad_dht.kad_dht as kad_dht
import libp2p.kad_dht.peer_routing as kad_peer_routing
import libp2p.kad_dht.provider_store as kad_provider_store
import libp2p.kad_dht.value_store as kad_value_store
import libp2p.network.swarm as libp2p_swarm
import libp2p.transport.tcp.tcp as libp2p_tcp
import trio
from libp2p import new_host
from libp2p.abc import IHost
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig
from libp2p.network.swarm import Swarm
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.rcmgr.memory_limits import MemoryConnectionLimits
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from shared.discovery.multiaddrs import advertised
from shared.identity import Identity

KAD_PROTOCOL = TProtocol("/bucket-brigade/kad/1.0.0")
QUERY_SECONDS = 2.5
DIAL_SECONDS = 3.0
MAX_CONNECTIONS = 1000
MAX_STREAMS = 8192
MAX_KAD_MESSAGE_BYTES = 64 << 10
"""20 peers with signed records and several addresses each take about 10 KiB."""


def patch_library() -> None:
    """Set what is the same for every host of this process. May be called again."""
    for module in (kad_common, kad_dht, kad_peer_routing, kad_value_store, kad_provider_store):
        # KadDHT(protocol_prefix=) leaves the wire id as it is, and nodes with the public id
        # would mingle with the IPFS network.
        vars(module)["PROTOCOL_ID"] = KAD_PROTOCOL
        # 4 MiB of invented peers per answer would fill the peer store.
        vars(module)["MAX_DHT_MESSAGE_SIZE"] = MAX_KAD_MESSAGE_BYTES
        # 10 s for each peer that hangs is longer than a lookup may take.
        vars(module)["QUERY_TIMEOUT"] = QUERY_SECONDS
    # The head start of the first address is waited out in full even if it is the only one.
    libp2p_swarm._HAPPY_EYEBALLS_DELAY = 0.02
    # SO_REUSEPORT, set for hole punching, would let a second process take the same port in
    # silence and get half of its connections.
    libp2p_tcp._set_reuse_flags = _reuse_address_only
    # One WARNING per DHT request served; ERROR for whatever a stranger sends that is malformed.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)


def make_host(identity: Identity, announced: Sequence[Multiaddr]) -> IHost:
    """A host that proves `identity` and tells others `announced`, or else where it listens."""
    patch_library()
    key_pair = create_new_key_pair(identity.seed)
    noise = Noise(key_pair, noise_privkey=create_noise_key_pair().private_key)
    host = new_host(
        key_pair=key_pair,
        sec_opt={NOISE: noise},  # plaintext and secio are offered beside it by default
        muxer_opt={TProtocol(YAMUX): Yamux},
        connection_config=_connection_config(),
        resource_manager=_resource_manager(),
        addrs_factory=lambda bound: advertised(bound, announced),
        # Would advertise the ephemeral ports that others saw us dial from.
        disable_identify_address_discovery=True,
    )
    network = host.get_network()
    assert isinstance(network, Swarm)
    # A dial that failed is repeated by whoever still wants the peer.
    network.retry_config.max_retries = 0
    # One failed dial would hide a peer that is just restarting for 60 s.
    network._negative_peer_cache._ttl = 5.0
    # Dials known peers until (low + high watermark) / 2: towards a full mesh.
    network.auto_connector.maybe_connect = _connect_to_nobody
    return host


def forget_failed_dial(host: IHost, peer: object) -> None:
    """Let the next dial of a peer happen, however recently one failed."""
    network = host.get_network()
    assert isinstance(network, Swarm)
    network._negative_peer_cache.evict(str(peer))


def _connection_config() -> ConnectionConfig:
    return ConnectionConfig(
        min_connections=0,
        low_watermark=MAX_CONNECTIONS // 2,
        high_watermark=MAX_CONNECTIONS - MAX_CONNECTIONS // 8,
        max_connections=MAX_CONNECTIONS,
        max_connections_per_peer=2,
        dial_timeout=DIAL_SECONDS,
        inbound_upgrade_timeout=5.0,
        outbound_upgrade_timeout=DIAL_SECONDS,
        outbound_stream_protocol_negotiation_timeout=DIAL_SECONDS,
        inbound_stream_protocol_negotiation_timeout=5.0,
    )


def _resource_manager() -> ResourceManager:
    """Limits by number. The default refuses connections at 90 % of the *system's* memory."""
    return ResourceManager(
        limits=ResourceLimits(max_connections=MAX_CONNECTIONS, max_streams=MAX_STREAMS),
        connection_limits=ConnectionLimits(
            max_pending_inbound=128,
            max_pending_outbound=64,
            max_established_inbound=MAX_CONNECTIONS,
            max_established_outbound=MAX_CONNECTIONS,
            max_established_per_peer=4,
            max_established_total=MAX_CONNECTIONS,
        ),
        memory_limits=MemoryConnectionLimits(),
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
    )


async def _connect_to_nobody() -> None:
    return None


def _reuse_address_only(sock: trio.socket.SocketType) -> None:
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
