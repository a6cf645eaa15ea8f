"""A swarm across hosts: the bootstrap node and the gateway on host 0, workers wherever told."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.models import build, save
from tests.swarm.namespaces import Hosts
from tests.swarm.nursery import Nursery, Nursling, nursery
from tests.swarm.streams import Hearing, Request, requests

MODEL = "net"
NUM_STREAMS = 6
SEEN_SECONDS = 40.0


@dataclass(frozen=True)
class Net:
    """The processes, what is asked of them, and what is to be heard."""

    hosts: Hosts
    nest: Nursery
    home: Path
    model: Path
    join: str
    gateway: Nursling
    client: httpx.AsyncClient
    wanted: dict[str, Request]
    expected: dict[str, Hearing] = field(default_factory=dict[str, Hearing])

    async def worker(self, host: int, span: str, *more: str, name: str = "") -> Nursling:
        """Start a worker on a host."""
        name = name or f"{host} {span}"
        return await self.nest.start(
            *(name, "worker", f"--model={self.model}", f"--blocks={span}", f"--join={self.join}"),
            *("--dtype=float32", "--threads=1", "--kv-tokens=16384"),
            *(f"--identity={self.home / name}.key", *more),
            namespace=self.hosts.namespace(host),
        )

    async def workers(self) -> list[dict[str, Any]]:
        """What the gateway tells of them."""
        return (await self.client.get("/swarm")).json()["workers"]

    async def until_linked(self, num_workers: int, *, and_sees_no_others: bool = False) -> None:
        """Wait until the gateway has a link to that many workers."""
        deadline = time.monotonic() + SEEN_SECONDS
        while True:
            workers = await self.workers()
            num_linked = sum(worker["linked"] for worker in workers)
            is_seen = not and_sees_no_others or len(workers) == num_workers
            if num_linked == num_workers and is_seen:
                return
            log = "\n".join(self.gateway.lines)
            seen = f"{num_linked} of {len(workers)} linked, not {num_workers}"
            assert time.monotonic() < deadline, f"{seen}:\n{log}"
            await asyncio.sleep(0.1)

    async def hear(self, disturb: Callable[[], Awaitable[None]]) -> None:
        """Hear several streams, with something done in their midst: all have to be right."""
        wanted = list(self.wanted.items())[:NUM_STREAMS]
        hearings = {name: Hearing(request) for name, request in wanted}
        listening = [asyncio.create_task(h.listen(self.client)) for h in hearings.values()]
        while not all(len(h.arrivals) > 10 for h in hearings.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await disturb()
        assert not all(h.finish_reason for h in hearings.values()), "that came too late"
        await asyncio.gather(*listening)
        self.check(hearings)

    def check(self, hearings: Mapping[str, Hearing]) -> None:
        """Every stream is as expected."""
        for name, hearing in hearings.items():
            assert not hearing.failure, f"{name}: {hearing.failure}"
            verdict = hearing.judge(self.expected[name], is_whole=True)
            assert (verdict.wrong, verdict.lost) == (0, 0), name


@asynccontextmanager
async def net_of(
    hosts: Hosts, home: Path, *gateway_options: str, num_tokens: int
) -> AsyncIterator[Net]:
    """A swarm that has no workers yet."""
    model = save(build("llama", seed=7, max_position_embeddings=1024), home / MODEL)
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
            *(f"--join={join}", f"--identity={home / 'g.key'}", *gateway_options),
            namespace=at_home,
            is_fresh=True,
        )
        url = (await gateway.ready())["url"]
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
            wanted = requests(MODEL, num_tokens)
            yield Net(hosts, nest, home, model, join, gateway, client, wanted)
