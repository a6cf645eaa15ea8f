"""Hosts that are slow to reach, go dark or do not see one another cost no token.

Host 0 has the gateway and the bootstrap node, every other host one worker or two:

    host 1: blocks 0:2     host 2: blocks 2:4 and 4:6     host 3: blocks 2:4

so that a route goes from host 1 to host 2, or over host 3.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.models import build, save
from tests.swarm.forwarder import Forwarder
from tests.swarm.namespaces import Hosts, NoNamespaces
from tests.swarm.nursery import Nursery, Nursling, nursery
from tests.swarm.streams import Hearing, Request, requests, undisturbed

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKERS = [(1, "0:2"), (2, "2:4"), (2, "4:6"), (3, "2:4")]
NUM_TOKENS = 150
NUM_STREAMS = 6
DELAY_SECONDS = 0.02
SEEN_SECONDS = 40.0
FAR_PORT = 7000
"""Hosts that are made for the test have all their ports free."""


@dataclass(frozen=True)
class Net:
    """A swarm across hosts."""

    hosts: Hosts
    nest: Nursery
    home: Path
    model: Path
    join: str
    client: httpx.AsyncClient
    expected: dict[str, Hearing]
    gateway: Nursling

    async def worker(self, host: int, span: str, *more: str) -> Nursling:
        """Start a worker on a host."""
        name = f"{host} {span}" + " delayed" * bool(more)
        return await self.nest.start(
            *(name, "worker", f"--model={self.model}", f"--blocks={span}", f"--join={self.join}"),
            *(f"--host={self.hosts.address(host)}", "--dtype=float32", "--threads=1"),
            *(f"--identity={self.home / name}.key", "--kv-tokens=16384", *more),
            namespace=self.hosts.namespace(host),
        )

    async def linked(self) -> int:
        """To how many workers the gateway has a link."""
        workers: list[dict[str, Any]] = (await self.client.get("/swarm")).json()["workers"]
        return sum(worker["linked"] for worker in workers)

    async def until_linked(self, num_workers: int) -> None:
        """Wait until the gateway has a link to that many workers."""
        deadline = time.monotonic() + SEEN_SECONDS
        while (num_linked := await self.linked()) != num_workers:
            log = "\n".join(self.gateway.lines)
            assert time.monotonic() < deadline, f"{num_linked} of {num_workers} linked:\n{log}"
            await asyncio.sleep(0.1)

    async def hear(self, disturb: Callable[[], Awaitable[None]]) -> None:
        """Hear several streams, with something done in their midst: all have to be right."""
        names = list(self.expected)[:NUM_STREAMS]
        wanted = _wanted()
        hearings = {name: Hearing(wanted[name]) for name in names}
        listening = [asyncio.create_task(h.listen(self.client)) for h in hearings.values()]
        while not all(len(h.arrivals) > 10 for h in hearings.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await disturb()
        assert not all(h.finish_reason for h in hearings.values()), "that came too late"
        await asyncio.gather(*listening)
        for name, hearing in hearings.items():
            assert not hearing.failure, f"{name}: {hearing.failure}"
            verdict = hearing.judge(self.expected[name], is_whole=True)
            assert (verdict.wrong, verdict.lost) == (0, 0), name


def _wanted() -> dict[str, Request]:
    return requests("net", NUM_TOKENS)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    try:
        with Hosts(4) as hosts:
            yield hosts
    except NoNamespaces as why:
        pytest.skip(str(why))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Net]:
    home = tmp_path_factory.mktemp("net")
    model = save(build("llama", seed=7, max_position_embeddings=1024), home / "net")
    at_home = hosts.namespace(0)
    async with nursery() as nest:
        first = await nest.start(
            *("bootstrap", "bootstrap", f"--host={hosts.address(0)}", "--port=0"),
            f"--identity={home / 'b.key'}",
            namespace=at_home,
        )
        join = (await first.wait_for(" ready: ")).partition(" ready: ")[2].strip()
        gateway = await nest.start(
            *("gateway", "gateway", f"--model={model}", f"--host={hosts.address(0)}", "--port=0"),
            *(f"--join={join}", f"--identity={home / 'g.key'}"),
            namespace=at_home,
            is_fresh=True,
        )
        url = (await gateway.ready())["url"]
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
            net = Net(hosts, nest, home, model, join, client, {}, gateway)
            workers = [await net.worker(host, span) for host, span in WORKERS]
            await asyncio.gather(*(worker.ready() for worker in workers))
            await net.until_linked(len(WORKERS))
            net.expected.update(await undisturbed(client, _wanted()))
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
            far.append(await net.worker(host, span, f"--public-url={url}", f"--port={port}"))
            forwarder.aim(net.hosts.address(host), port)
        await net.until_linked(len(WORKERS) + len(far))

        async def nothing() -> None:
            assert any(forwarder.lines for forwarder in forwarders)

        await net.hear(nothing)
    finally:
        await asyncio.gather(*(worker.stop() for worker in far))
        await asyncio.gather(*(forwarder.close() for forwarder in forwarders))
    await net.until_linked(len(WORKERS))
