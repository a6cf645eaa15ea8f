"""Fifty nodes of the DHT on one box: each a process, all of them found, none of them busy."""

import asyncio
import gc
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.discovery.kademlia import KademliaDirectory
from shared.identity import Identity
from shared.records import open_record
from tests.shared.announcing import ANN, TOPIC, live_record
from tests.swarm.nursery import Nursery, Nursling, nursery

NUM_NODES = 50
QUIET_SECONDS = 20.0
FOUND_SECONDS = 20.0
"""A newcomer's first look, its joining included; far less where nothing else runs."""
MAX_CORES = 0.5
"""What all of them together may take of one core while nothing happens."""
MAX_OWN_BYTES = 40 << 20
"""What each may have beyond what its fork shares with the others."""


async def started(made: Nursery, home: Path) -> list[tuple[Nursling, str]]:
    """A first node, and others that know only it."""
    nodes: list[tuple[Nursling, str]] = []
    for index in range(NUM_NODES):
        join = [f"--join={nodes[0][1]}"] if nodes else []
        node = await made.start(
            *(f"node {index}", "bootstrap", "--port=0", f"--identity={home / str(index)}.key"),
            *join,
        )
        nodes.append((node, (await node.wait_for(" ready: ")).partition(" ready: ")[2]))
    return nodes


async def looked_up(address: str) -> tuple[list[bytes], float]:
    """What a newcomer finds that knows one node only, and in how many seconds."""
    began = time.monotonic()
    directory = KademliaDirectory(Identity.create(), join=[address], server=False)
    await directory.start()
    try:
        async with asyncio.timeout(FOUND_SECONDS):
            while not (found := await directory.lookup(TOPIC)):  # noqa: ASYNC110
                await asyncio.sleep(0.5)  # it may not have met anybody yet
        return [sighting.record for sighting in found], time.monotonic() - began
    finally:
        await directory.stop()


def seconds_of_cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@pytest.fixture
def collected() -> Iterator[None]:
    """Has what the test leaves be collected while its warnings are still ignored."""
    yield
    gc.collect()


# libp2p leaves it to the garbage collector to close sockets to nodes of other processes
@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_fifty_nodes_find_each_other_and_rest(tmp_path: Path):
    async with nursery() as made:
        nodes = await started(made, tmp_path)
        announcer = KademliaDirectory(Identity.create(), join=[nodes[7][1]], server=False)
        await announcer.start()
        try:
            record = live_record(ANN, lease_seconds=120.0)
            async with asyncio.timeout(60):
                while await announcer.announce(TOPIC, record) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(1)
            for index in (1, 20, 49):
                (found,), seconds = await looked_up(nodes[index][1])
                assert open_record(found).worker == ANN.peer
                print(f"found through node {index} in {seconds:.1f} s")
        finally:
            await announcer.stop()
        processes = [psutil.Process(node.pid) for node, _ in nodes]
        before = seconds_of_cpu(processes)
        await asyncio.sleep(QUIET_SECONDS)  # what is measured is rest
        used = (seconds_of_cpu(processes) - before) / QUIET_SECONDS
        own = sorted(process.memory_full_info().uss for process in processes)
        print(f"{NUM_NODES} nodes: {used:.2f} cores, {own[-1] >> 20} MiB at most each")
        assert used < MAX_CORES
        assert own[-1] < MAX_OWN_BYTES
