"""Hosts that are slow to reach, lose packets, go dark or do not see one another cost no token.

Host 0 has the gateway and the bootstrap node, every other host one worker or two:

    host 1: blocks 0:2     host 2: blocks 2:4 and 4:6     host 3: blocks 2:4

so that a route goes from host 1 to host 2, or over host 3.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from tests.swarm.forwarder import Forwarder
from tests.swarm.namespaces import Hosts, NoNamespaces
from tests.swarm.net import Net, net_of
from tests.swarm.nursery import Nursling
from tests.swarm.streams import undisturbed

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKERS = [(1, "0:2"), (2, "2:4"), (2, "4:6"), (3, "2:4")]
NUM_TOKENS = 150
DELAY_SECONDS = 0.02
LOST_PERCENT = 3
FAR_PORT = 7000
"""Hosts that are made for the test have all their ports free."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    try:
        with Hosts(4) as hosts:
            yield hosts
    except NoNamespaces as why:
        pytest.skip(str(why))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Net]:
    async with net_of(hosts, tmp_path_factory.mktemp("net"), num_tokens=NUM_TOKENS) as net:
        workers = [
            await net.worker(host, span, f"--host={hosts.address(host)}") for host, span in WORKERS
        ]
        await asyncio.gather(*(worker.ready() for worker in workers))
        await net.until_linked(len(WORKERS))
        net.expected.update(await undisturbed(net.client, net.wanted))
        yield net


@asynccontextmanager
async def healed(net: Net) -> AsyncIterator[None]:
    """Whatever is done to the hosts is undone, and the gateway finds all workers again."""
    try:
        yield
    finally:
        net.hosts.heal()
        for host in net.hosts.numbers:
            net.hosts.plug_in(host)
        await net.until_linked(len(WORKERS))


async def test_two_hosts_that_no_longer_see_each_other_are_routed_around_then_used_again(net: Net):
    async def part() -> None:
        net.hosts.part(1, 2)

    async def unplug() -> None:
        net.hosts.unplug(3)

    async with healed(net):
        await net.hear(part)
    async with healed(net):
        await net.hear(unplug)  # what is left leads from host 1 to host 2


async def test_a_host_that_goes_dark_in_mid_stream_is_replaced(net: Net):
    async def unplug() -> None:
        net.hosts.unplug(3)

    async with healed(net):
        await net.hear(unplug)


async def test_a_whole_swarm_that_is_cut_off_for_a_while_goes_on_where_it_was(net: Net):
    async def cut_off() -> None:
        net.hosts.unplug(0)
        await asyncio.sleep(1.0)  # as long as the wire is dead
        net.hosts.plug_in(0)

    async with healed(net):
        await net.hear(cut_off)


@pytest.mark.slow
async def test_packets_that_are_lost_cost_no_token_and_no_worker(net: Net):
    async def lose() -> None:
        try:
            net.hosts.lose(percent=LOST_PERCENT)
        except NoNamespaces as why:
            pytest.skip(str(why))

    async with healed(net):
        await net.hear(lose)
        assert sum(worker["linked"] for worker in await net.workers()) == len(WORKERS)


async def test_workers_that_are_far_away_give_the_same_tokens(net: Net):
    forwarders: list[Forwarder] = []
    far: list[Nursling] = []
    try:
        for number, (host, span) in enumerate(WORKERS[:3]):
            forwarder = Forwarder()
            await forwarder.start(net.hosts.address_outside)
            forwarder.delay(DELAY_SECONDS)
            forwarders.append(forwarder)
            url = f"ws://{net.hosts.address_outside}:{forwarder.port}"
            port = FAR_PORT + number
            far.append(
                await net.worker(
                    *(host, span, f"--host={net.hosts.address(host)}"),
                    *(f"--public-url={url}", f"--port={port}"),
                    name=f"{host} {span} delayed",
                )
            )
            forwarder.aim(net.hosts.address(host), port)
        await net.until_linked(len(WORKERS) + len(far))

        async def nothing() -> None:
            assert any(forwarder.lines for forwarder in forwarders)

        await net.hear(nothing)
    finally:
        await asyncio.gather(*(worker.stop() for worker in far))
        await asyncio.gather(*(forwarder.close() for forwarder in forwarders))
    await net.until_linked(len(WORKERS))
