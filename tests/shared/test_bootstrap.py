"""A bootstrap node says where it is, lets others join, and leaves when it is told to."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from shared.bootstrap import BootstrapSettings, announced
from shared.discovery.kademlia import KademliaDirectory
from shared.identity import Identity
from tests.shared.announcing import ANN, TOPIC, live_record

BOOTSTRAP = "import sys; from shared.bootstrap import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_bootstrap_node_serves_until_a_signal(tmp_path: Path, number: signal.Signals):
    key = tmp_path / "bootstrap.key"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BOOTSTRAP, "--port", "0", "--identity", str(key)), stdout=PIPE
    )
    assert process.stdout
    ready = (await process.stdout.readline()).decode().strip()
    address = ready.removeprefix("bootstrap ready: ")
    assert address.endswith(f"/p2p/{Identity.load_or_create(key).peer}")
    assert f"--join {address}" in (await process.stdout.readline()).decode()
    member = KademliaDirectory(ANN, join=[address])
    await member.start()
    assert await member.announce(TOPIC, live_record(ANN)) == 2
    await member.stop()
    process.send_signal(number)
    assert await asyncio.wait_for(process.wait(), 10) == 0


@pytest.mark.parametrize(
    ("public_address", "multiaddrs"),
    [
        ("", []),
        ("192.0.2.7", ["/ip4/192.0.2.7/tcp/4001"]),
        ("swarm.example.org", ["/dns4/swarm.example.org/tcp/4001"]),
        ("/ip4/192.0.2.7/tcp/443", ["/ip4/192.0.2.7/tcp/443"]),
    ],
)
def test_a_public_address_may_be_a_name_an_ip_address_or_a_multiaddr(
    public_address: str, multiaddrs: list[str]
):
    assert announced(BootstrapSettings(public_address=public_address)) == multiaddrs
