"""Workers behind NAT serve like others: attached to a gateway, and pushing through it.

Host 0 has the bootstrap node and the gateway. All other hosts are behind routers of their own that
let nobody in, so that no two workers can dial each other:

    host 1: blocks 0:3     host 2: blocks 3:6     host 3: blocks 3:6, later
"""

import json
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.swarm.namespaces import Hosts, NoNamespaces
from tests.swarm.net import Net, net_of
from tests.swarm.nursery import Nursling
from tests.swarm.streams import undisturbed

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUM_TOKENS = 80
NUM_STREAMS = 4


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    try:
        with Hosts(4, behind_nat=(1, 2, 3)) as hosts:
            yield hosts
    except NoNamespaces as why:
        pytest.skip(str(why))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Net]:
    options = (f"--attach-host={hosts.address(0)}", "--attach-port=0")
    home = tmp_path_factory.mktemp("nat")
    async with net_of(hosts, home, *options, num_tokens=NUM_TOKENS) as net:
        for name in list(net.wanted)[NUM_STREAMS:]:
            del net.wanted[name]
        whole = await net.worker(0, "0:6", f"--host={hosts.address(0)}")
        assert (await whole.ready())["url"].startswith("wss:"), "a gateway has dialled it"
        await net.until_linked(1, and_sees_no_others=True)
        net.expected.update(await undisturbed(net.client, net.wanted))
        await whole.stop()
        yield net


async def sessions_of(net: Net, worker: Nursling) -> int:
    """How many sessions a worker says that it has."""
    peer = (await worker.ready())["peer_id"]
    return sum(
        told["status"]["sessions"] for told in await net.workers() if told["peer_id"] == peer
    )


async def metric(net: Net, name: str) -> float:
    """One of the gateway's counters or gauges."""
    lines = (await net.client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def test_two_workers_behind_nat_are_neighbours_and_one_that_dies_is_replaced(net: Net):
    """One says nothing of addresses, the other listens everywhere: both find out by themselves."""
    ann, bob = await net.worker(1, "0:3"), await net.worker(2, "3:6", "--host=0.0.0.0")
    for worker in (ann, bob):
        state = await worker.ready()
        assert (state["url"], len(state["attached"])) == ("", 1)
        assert any("behind NAT" in line for line in worker.lines)
    await net.until_linked(2, and_sees_no_others=True)
    assert await metric(net, "brigade_gateway_attached_workers") == 2

    net.check(await undisturbed(net.client, net.wanted))
    assert await metric(net, "brigade_gateway_relayed_frames_total") > NUM_TOKENS

    cyd = await net.worker(3, "3:6", "--host=0.0.0.0")
    await cyd.ready()
    await net.until_linked(3, and_sees_no_others=True)

    async def kill() -> None:
        busy = bob if await sessions_of(net, bob) else cyd
        busy.signal(signal.SIGKILL)

    await net.hear(kill)
    assert await metric(net, 'brigade_gateway_takeovers_total{kind="loss"}') > 0


async def outside(net: Net, host: int, address: str) -> dict[str, str]:
    """What the doctor finds on a host when it has gateways dial back."""
    doctor = await net.nest.start(
        *("doctor", "doctor", "worker", f"--model={net.model}", f"--join={net.join}", "--json"),
        *(f"--host={address}", "--port=7000", f"--identity={net.home / 'doctor.key'}"),
        namespace=net.hosts.namespace(host),
    )
    assert await doctor.end(90), doctor.lines
    (said,) = [line for line in doctor.lines if line.startswith("[")]
    (found,) = [one for one in json.loads(said) if one["check"] == "outside"]
    return found


@pytest.mark.slow
async def test_the_doctor_tells_a_host_that_others_can_dial_from_one_behind_nat(net: Net):
    here = await outside(net, 0, net.hosts.address(0))
    hidden = await outside(net, 1, "0.0.0.0")
    address = f"wss://{net.hosts.address(0)}:7000"
    assert (here["level"], f"a gateway has dialled {address}" in here["says"]) == ("ok", True)
    assert "behind NAT" in hidden["says"]
    outer = f"wss://{net.hosts.address(1)}:7000"
    assert f"dialling {outer} was in vain" in hidden["says"]
    assert (
        f"forward TCP port 7000 to this machine, and give --public-url {outer} --tls on"
        in (hidden["remedy"])
    )
