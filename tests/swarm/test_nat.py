"""Workers behind NAT serve like others: attached to a gateway, and pushing through it.

Host 0 has the bootstrap node and the gateway. All other hosts are behind routers of their own that
let nobody in, so that no two workers can dial each other:

    host 1: blocks 0:3     host 2: blocks 3:6     host 3: blocks 3:6, later
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.models import build, save
from tests.swarm.namespaces import Hosts, NoNamespaces
from tests.swarm.nursery import Nursery, Nursling, nursery
from tests.swarm.streams import Hearing, Request, requests, undisturbed

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUM_TOKENS = 80
NUM_STREAMS = 4
SEEN_SECONDS = 40.0


@dataclass(frozen=True)
class Net:
    """A gateway that takes workers from behind NAT."""

    hosts: Hosts
    nest: Nursery
    home: Path
    model: Path
    join: str
    gateway: Nursling
    client: httpx.AsyncClient
    expected: dict[str, Hearing]

    async def worker(self, host: int, span: str, *more: str) -> Nursling:
        """Start a worker on a host."""
        return await self.nest.start(
            *(f"{host} {span}", "worker", f"--model={self.model}", f"--blocks={span}"),
            *(f"--join={self.join}", "--dtype=float32", "--threads=1", "--kv-tokens=16384"),
            *(f"--identity={self.home / f'{host}.key'}", *more),
            namespace=self.hosts.namespace(host),
        )

    async def workers(self) -> list[dict[str, Any]]:
        """What the gateway tells of them."""
        return (await self.client.get("/swarm")).json()["workers"]

    async def sessions_of(self, worker: Nursling) -> int:
        """How many sessions a worker says that it has."""
        peer = (await worker.ready())["peer_id"]
        return sum(
            told["status"]["sessions"] for told in await self.workers() if told["peer_id"] == peer
        )

    async def until_linked(self, num_workers: int) -> None:
        """Wait until the gateway sees that many workers, and has a link to each."""
        deadline = time.monotonic() + SEEN_SECONDS
        while [worker["linked"] for worker in await self.workers()] != [True] * num_workers:
            log = "\n".join(self.gateway.lines)
            assert time.monotonic() < deadline, f"not {num_workers} linked:\n{log}"
            await asyncio.sleep(0.1)

    async def metric(self, name: str) -> float:
        """One of the gateway's counters or gauges."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    async def check(self, hearings: dict[str, Hearing]) -> None:
        """Every stream is as it was through one worker that hosts the whole model."""
        for name, hearing in hearings.items():
            assert not hearing.failure, f"{name}: {hearing.failure}"
            verdict = hearing.judge(self.expected[name], is_whole=True)
            assert (verdict.wrong, verdict.lost) == (0, 0), name


def _wanted() -> dict[str, Request]:
    wanted = requests("net", NUM_TOKENS)
    return {name: wanted[name] for name in list(wanted)[:NUM_STREAMS]}


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    try:
        with Hosts(4, behind_nat=(1, 2, 3)) as hosts:
            yield hosts
    except NoNamespaces as why:
        pytest.skip(str(why))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Net]:
    home = tmp_path_factory.mktemp("nat")
    model = save(build("llama", seed=7, max_position_embeddings=1024), home / "net")
    at_home, address = hosts.namespace(0), hosts.address(0)
    async with nursery() as nest:
        first = await nest.start(
            *("bootstrap", "bootstrap", f"--host={address}", "--port=0"),
            f"--identity={home / 'b.key'}",
            namespace=at_home,
        )
        join = (await first.wait_for(" ready: ")).partition(" ready: ")[2].strip()
        gateway = await nest.start(
            *("gateway", "gateway", f"--model={model}", f"--host={address}", "--port=0"),
            *(f"--join={join}", f"--identity={home / 'g.key'}"),
            *(f"--attach-host={address}", "--attach-port=0"),
            namespace=at_home,
            is_fresh=True,
        )
        url = (await gateway.ready())["url"]
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
            net = Net(hosts, nest, home, model, join, gateway, client, {})
            whole = await net.worker(0, "0:6", f"--host={address}")
            assert (await whole.ready())["url"].startswith("wss:"), "a gateway has dialled it"
            await net.until_linked(1)
            net.expected.update(await undisturbed(client, _wanted()))
            await whole.stop()
            yield net


async def test_two_workers_behind_nat_are_neighbours_and_one_that_dies_is_replaced(net: Net):
    """One says nothing of addresses, the other listens everywhere: both find out by themselves."""
    ann, bob = await net.worker(1, "0:3"), await net.worker(2, "3:6", "--host=0.0.0.0")
    for worker in (ann, bob):
        state = await worker.ready()
        assert (state["url"], len(state["attached"])) == ("", 1)
        assert any("behind NAT" in line for line in worker.lines)
    await net.until_linked(2)
    assert await net.metric("brigade_gateway_attached_workers") == 2

    await net.check(await undisturbed(net.client, _wanted()))
    assert await net.metric("brigade_gateway_relayed_frames_total") > NUM_TOKENS

    cyd = await net.worker(3, "3:6", "--host=0.0.0.0")
    await cyd.ready()
    await net.until_linked(3)
    hearings = {name: Hearing(request) for name, request in _wanted().items()}
    listening = [asyncio.create_task(one.listen(net.client)) for one in hearings.values()]
    while not all(len(hearing.arrivals) > 10 for hearing in hearings.values()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    busy = bob if await net.sessions_of(bob) else cyd
    busy.signal(signal.SIGKILL)
    assert not all(hearing.finish_reason for hearing in hearings.values()), "that came too late"
    await asyncio.gather(*listening)
    await net.check(hearings)
    assert await net.metric('brigade_gateway_takeovers_total{kind="loss"}') > 0
