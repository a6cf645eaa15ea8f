"""Real libp2p nodes on loopback: what is announced on one is found on all, whoever dies."""

# pyright: reportPrivateUsage=false
import asyncio
import gc
import random
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from structlog.testing import capture_logs

from shared.discovery import holder as holder_module
from shared.discovery import node as node_module
from shared.discovery import peer_cache
from shared.discovery import thread as thread_module
from shared.discovery.holder import HOLDER_PROTOCOL, HolderCalls
from shared.discovery.kademlia import KademliaDirectory
from shared.discovery.libp2p_patches import KAD_PROTOCOL
from shared.discovery.node import Node
from shared.discovery.watcher import Watcher
from shared.errors import ConfigError, PeerUnreachable
from shared.identity import Identity
from shared.records import open_record, sign_announcement
from tests.shared.announcing import ANN, BOB, TOPIC, announcement, live_record

PATIENCE_SECONDS = 20.0

# What libp2p leaves behind of a connection that was being made when it was told to stop.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True, scope="module")
def others_need_not_tidy_up() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Swarm:
    """Nodes in this process, each with its own thread; all are stopped at the end."""

    def __init__(self) -> None:
        self.members: list[KademliaDirectory] = []

    async def add(
        self, *known: KademliaDirectory, identity: Identity | None = None, **options: Any
    ) -> KademliaDirectory:
        """A node that joins the swarm through those it knows."""
        join = [address for member in known for address in member.multiaddrs]
        options = {"join": join} | options
        member = KademliaDirectory(identity or Identity.create(), **options)
        self.members.append(member)
        await member.start()
        return member

    async def grow(self, size: int) -> list[KademliaDirectory]:
        """A bootstrap node and others that know only it, until all know all."""
        bootstrap = await self.add()
        members = [bootstrap, *[await self.add(bootstrap) for _ in range(size - 1)]]
        await until(lambda: all(member.known_peers() == size - 1 for member in members))
        return members

    async def stop(self) -> None:
        await asyncio.gather(*(member.stop() for member in self.members))


@pytest.fixture
async def swarm() -> AsyncIterator[Swarm]:
    swarm = Swarm()
    yield swarm
    await swarm.stop()


async def until(holds: Callable[[], Any]) -> None:
    """Wait for what happens on other threads and machines."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until_found(member: KademliaDirectory, *records: bytes) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while {s.record for s in await member.lookup(TOPIC)} != set(records):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_node_bears_the_peer_id_of_its_identity(swarm: Swarm):
    node = await swarm.add(identity=ANN)
    (address,) = node.multiaddrs
    assert address.startswith("/ip4/127.0.0.1/tcp/")
    assert address.endswith(f"/p2p/{ANN.peer}")


async def test_what_one_announces_all_find(swarm: Swarm):
    members = await swarm.grow(6)
    announced = time.monotonic()
    record = live_record(ANN, lease_seconds=12.0)
    assert await members[1].announce(TOPIC, record) >= 3
    for member in members:
        (sighting,) = await member.lookup(TOPIC)
        assert sighting.record == record
        age = time.monotonic() - announced
        assert 11 - age < sighting.remaining_seconds <= 12
        assert member.known_peers() >= 4


async def test_a_newer_announcement_replaces_the_older(swarm: Swarm):
    members = await swarm.grow(4)
    for sequence in (1, 2, 3):
        await members[1].announce(TOPIC, live_record(ANN, sequence=sequence, leaving=sequence > 2))
    (sighting,) = await members[3].lookup(TOPIC)
    assert open_record(sighting.record).leaving


async def test_the_first_node_of_a_swarm_holds_for_itself(swarm: Swarm):
    alone = await swarm.add()
    assert await alone.announce(TOPIC, live_record(ANN)) == 1
    assert len(await alone.lookup(TOPIC)) == 1


async def test_a_bootstrap_node_may_die_once_others_are_known(swarm: Swarm):
    bootstrap, ann, bob = await swarm.grow(3)
    record = live_record(ANN, lease_seconds=60.0)
    await bootstrap.stop()
    assert await ann.announce(TOPIC, record) >= 1
    late = await swarm.add(ann)
    await until_found(late, record)
    await until_found(bob, record)


async def test_a_restarted_node_finds_the_swarm_by_its_peer_cache(
    swarm: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(node_module, "WATCH_JOINED_SECONDS", 0.1)
    bootstrap, ann = await swarm.grow(2)
    cache = tmp_path / "peers.json"
    first_life = await swarm.add(bootstrap, peer_cache=cache)
    await until(lambda: len(peer_cache.load(cache)) == 2)
    await first_life.stop()
    await bootstrap.stop()
    record = live_record(ANN, lease_seconds=60.0)
    await ann.announce(TOPIC, record)
    second_life = await swarm.add(join=bootstrap.multiaddrs, peer_cache=cache)
    await until_found(second_life, record)


async def test_a_node_waits_for_a_bootstrap_node_that_is_not_there_yet(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(node_module, "WATCH_JOINED_SECONDS", 0.05)
    bootstrap = await swarm.add(identity=BOB)
    (address,) = bootstrap.multiaddrs
    await bootstrap.stop()
    with capture_logs() as logs:
        early = await swarm.add(join=[address])
    assert [log["members"] for log in logs if log["event"] == "cannot_join"] == [[address]]
    assert early.known_peers() == 0
    await swarm.add(identity=BOB, listen=address.partition("/p2p/")[0])
    await until(early.known_peers)


async def test_records_not_to_be_believed_are_taken_by_nobody(swarm: Swarm):
    ann, bob = await swarm.grow(2)
    refused = {
        "forged": sign_announcement(BOB, announcement(ANN)),
        "expired": live_record(ANN, issued_at=1_700_000_000.0),
        "future": live_record(ANN, issued_at=4_000_000_000.0),
        "other topic": live_record(ANN, model="other"),
        "oversized": bytes(5000),
    }
    for what, record in refused.items():
        assert await ann.announce(TOPIC, record) == 0, what
    assert await bob.lookup(TOPIC) == []


async def test_garbage_on_the_holder_protocol_ends_only_its_own_stream(swarm: Swarm):
    victim, stranger = await swarm.grow(2)
    rng = random.Random(0)
    garbage = [
        b"\xff\xff\xff\xff",
        (5).to_bytes(4, "little") + b"\xc1" * 5,
        (8000).to_bytes(4, "little") + b"\x91" * 8000,
        *(rng.randbytes(200) for _ in range(5)),
    ]

    async def throw(node: Node) -> None:
        for piece in garbage:
            stream = await node._host.new_stream(peer_of(victim), [HOLDER_PROTOCOL])
            await stream.write(piece)
        await trio.sleep(0.1)

    await stranger._thread.call(throw)
    assert await stranger.announce(TOPIC, live_record(ANN)) == 2
    assert len(await victim.lookup(TOPIC)) == 1


async def test_a_hanging_holder_costs_a_bounded_time_and_soon_none(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(holder_module, "ASK_SECONDS", 0.3)
    hanging, ann, bob = await swarm.grow(3)

    async def hang(*_: object) -> None:
        await trio.sleep_forever()

    await hanging._thread.call(lambda node: replace_serving(node, hang))
    assert await ann.announce(TOPIC, live_record(ANN)) == 2
    assert await ann.announce(TOPIC, live_record(ANN)) == 2
    async with asyncio.timeout(0.29):
        assert await ann.announce(TOPIC, live_record(ANN)) == 2
    assert len(await bob.lookup(TOPIC)) == 1


async def test_a_stream_that_the_holder_closed_is_opened_anew(swarm: Swarm):
    ann, bob = await swarm.grow(2)
    assert await bob.announce(TOPIC, live_record(ANN)) == 2

    async def break_streams(node: Node) -> None:
        for line in calls_of(node)._lines.values():
            assert line.stream is not None
            await line.stream.reset()

    await bob._thread.call(break_streams)
    assert await bob.announce(TOPIC, live_record(ANN, sequence=2)) == 2
    assert len(await ann.lookup(TOPIC)) == 1


async def test_clients_are_members_of_no_routing_table(swarm: Swarm):
    server = await swarm.add()
    client = await swarm.add(server, server=False)
    assert await client.announce(TOPIC, live_record(ANN)) == 1
    other = await swarm.add(server, server=False)
    assert len(await other.lookup(TOPIC)) == 1
    assert (server.known_peers(), client.known_peers(), other.known_peers()) == (0, 1, 1)


async def test_a_watcher_sees_a_worker_join(swarm: Swarm):
    bootstrap, gateway = await swarm.grow(2)
    watcher = Watcher(gateway, TOPIC, poll_seconds=0.2)
    await watcher.start()
    changed = asyncio.create_task(watcher.wait_changed())
    async with asyncio.timeout(5):  # the promise to users
        worker = await swarm.add(bootstrap, identity=ANN)
        await worker.announce(TOPIC, live_record(ANN))
        await changed
    assert set(watcher.view) == {ANN.peer}
    await watcher.stop()


async def test_a_taken_port_is_named(swarm: Swarm):
    (address,) = (await swarm.add()).multiaddrs
    listen = address.partition("/p2p/")[0]
    port = listen.rpartition("/")[2]
    with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is taken"):
        await swarm.add(listen=listen)


async def test_malformed_addresses_are_quoted():
    for options in ({"listen": "localhost:1"}, {"join": ["bob"]}, {"announce_addresses": ["x"]}):
        with pytest.raises(ConfigError, match=r"is not a multiaddr"):
            KademliaDirectory(ANN, **options)  # type: ignore[arg-type]


async def test_a_node_that_died_of_a_bug_lives_on_at_the_same_address(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(thread_module, "FIRST_PAUSE_SECONDS", 0.2)
    bootstrap, ann = await swarm.grow(2)
    address = ann.multiaddrs

    async def die() -> None:
        raise LookupError("a bug in a library")

    door = ann._thread._door
    assert door is not None
    with capture_logs() as logs:
        door.token.run_sync_soon(door.nursery.start_soon, die)
        await until(lambda: ann._thread._door not in (None, door))
    assert "a bug in a library" in logs[0]["error"]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                if await ann.announce(TOPIC, live_record(ANN)) == 2:
                    break
            except PeerUnreachable:
                await asyncio.sleep(0.05)
    assert ann.multiaddrs == address
    assert len(await bootstrap.lookup(TOPIC)) == 1


async def test_the_wire_speaks_our_kademlia_and_not_the_public_one(swarm: Swarm):
    node = await swarm.add()

    async def protocols(node: Node) -> set[str]:
        await trio.lowlevel.checkpoint()
        return {str(p) for p in node._host.get_mux().get_protocols()}

    assert {KAD_PROTOCOL, HOLDER_PROTOCOL} <= await node._thread.call(protocols)
    assert "/ipfs/kad/1.0.0" not in await node._thread.call(protocols)


async def test_calls_before_the_start_and_after_the_stop_fail(swarm: Swarm):
    node = KademliaDirectory(ANN)
    with pytest.raises(PeerUnreachable):
        await node.lookup(TOPIC)
    assert (node.multiaddrs, node.known_peers()) == ([], 0)
    await node.start()
    await node.stop()
    with pytest.raises(PeerUnreachable):
        await node.lookup(TOPIC)
    await node.stop()  # twice is no harm


def peer_of(member: KademliaDirectory) -> ID:
    return ID.from_base58(member._config.identity.peer)


def calls_of(node: Node) -> HolderCalls:
    return node._calls


async def replace_serving(node: Node, serve: Any) -> None:
    await trio.lowlevel.checkpoint()
    node._holder._serve_one = serve
