"""A directory over libp2p's Kademlia, for asyncio callers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from shared.discovery.directory import Sighting
from shared.discovery.multiaddrs import check_can_listen, parse_address, parse_member
from shared.discovery.node import Node, NodeConfig
from shared.discovery.thread import TrioThread
from shared.identity import Identity


class KademliaDirectory:
    """Announces to and looks up from the servers closest to a topic.

    `listen`, `join` and `announce_addresses` are multiaddrs; those to join end in `/p2p/PEER`.
    A server answers the queries of others and may hold their announcements; a node that others
    cannot dial must not be one. `announce_addresses` says where others reach a node behind a
    port forward; port 0 in it stands for the port it listens on.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        listen: str = "/ip4/127.0.0.1/tcp/0",
        join: Sequence[str] = (),
        server: bool = True,
        announce_addresses: Sequence[str] | None = None,
        peer_cache: Path | None = None,
    ) -> None:
        self._config = NodeConfig(
            identity=identity,
            listen=parse_address(listen),
            join=tuple(parse_member(text) for text in join),
            announced=tuple(parse_address(text) for text in announce_addresses or ()),
            is_server=server,
            peer_cache=peer_cache,
        )
        self._thread: TrioThread[Node] = TrioThread(self._live, "discovery")
        self._node: Node | None = None

    async def start(self) -> None:
        """Listen, and join as far as anybody can be reached. Raises ConfigError."""
        check_can_listen(self._config.listen)
        try:
            await self._thread.start()
        except BaseException:
            await self._thread.stop()
            raise

    async def stop(self) -> None:
        """Leave the swarm and end the thread."""
        await self._thread.stop()

    async def become_client(self) -> None:
        """Leave and join anew as one that others do not dial, unless it is one already."""
        if self._config.is_server:
            self._config = replace(self._config, is_server=False)
            await self._thread.stop()
            self._thread = TrioThread(self._live, "discovery")
            await self._thread.start()

    @property
    def multiaddrs(self) -> list[str]:
        """Where others may reach this node, with its peer id; what they give as `join`."""
        return self._node.multiaddrs if self._node else []

    def known_peers(self) -> int:
        """How many servers of the swarm this node knows beside itself."""
        return self._node.num_members if self._node else 0

    async def announce(self, topic: str, record: bytes) -> int:
        """Store a signed record; how many holders took it. Raises PeerUnreachable."""
        return await self._thread.call(lambda node: node.announce(topic, record))

    async def lookup(self, topic: str) -> list[Sighting]:
        """Every record known under a topic. Raises PeerUnreachable."""
        return await self._thread.call(lambda node: node.lookup(topic))

    async def _live(self, ready: Callable[[Node], None]) -> None:
        def moved_in(node: Node) -> None:
            # Others know the port: a node that is started again must have the same one.
            self._config = replace(self._config, listen=node.bound[0])
            self._node = node
            ready(node)

        await Node(self._config).run(moved_in)
