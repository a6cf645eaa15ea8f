"""What an operator is told of a real swarm of two models by `status`, `plan` and `doctor`."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.models import build, save
from tests.swarm.nursery import Nursling, nursery

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

END_SECONDS = 45
"""In which every command has to end, on a machine that others use: alone it is a few."""
SPANS = {"one": ("0:6",), "two": ("0:3", "3:6")}


@dataclass(frozen=True)
class Town:
    """A gateway of two models, and their workers."""

    join: str
    url: str
    workers: dict[str, Nursling]
    home: Path

    async def ask(self, *command: str) -> tuple[int, str]:
        """The exit status of a command, and what it says."""
        began = time.monotonic()
        asked = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shared.brigade", *command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | {"HOME": str(self.home)},
        )
        try:
            async with asyncio.timeout(END_SECONDS):
                said = (await asked.communicate())[0].decode()
        except TimeoutError:
            asked.kill()
            raise
        code = await asked.wait()
        print(f"\n{time.monotonic() - began:.1f} s, {code}: brigade {' '.join(command)}\n{said}")
        return code, said

    async def completeness(self, where: str) -> dict[str, bool]:
        """What `status` says of each model."""
        _, said = await self.ask("status", "--once", "--json", where)
        shown: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
        return {one["model"]: one["complete"] for one in shown}

    async def is_covered(self, model: str) -> bool:
        """Whether the gateway has a worker for every block."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            return (await client.get("/swarm", params={"model": model})).json()["complete"]


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 60) -> float:
    """Wait for something; how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    home = tmp_path_factory.mktemp("town")
    folders = {name: save(build("llama", seed=7), home / name) for name in SPANS}
    async with nursery() as nest:
        first = await nest.start("b", "bootstrap", "--port=0", f"--identity={home / 'b.key'}")
        join = (await first.wait_for(" ready: ")).partition(" ready: ")[2].strip()
        gateway = await nest.start(
            *("g", "gateway", "--port=0", f"--join={join}", f"--identity={home / 'g.key'}"),
            *(f"--model={folder}" for folder in folders.values()),
            is_fresh=True,
        )
        url = (await gateway.ready())["url"]
        workers = {
            f"{name} {span}": await nest.start(
                *(f"{name} {span}", "worker", f"--model={folders[name]}", f"--blocks={span}"),
                *(f"--identity={home / name}{span}.key", "--threads=1", "--kv-tokens=1024"),
                f"--join={join}",
            )
            for name, spans in SPANS.items()
            for span in spans
        }
        town = Town(join, url, workers, home)
        for worker in workers.values():
            await worker.ready()
        for name in SPANS:
            took = await until(lambda name=name: town.is_covered(name))
            print(f"{took:.2f} s until the gateway sees {name} whole, its workers being ready")
        yield town


@pytest.mark.slow
async def test_what_cannot_be_looked_at_is_a_sentence_and_an_exit_status(town: Town):
    node = f"--join={town.join}"
    nowhere = f"--join=/ip4/127.0.0.1/tcp/1/p2p/{town.join.rpartition('/')[2]}"
    secret = town.home / "secret"
    secret.write_text("not the secret of this swarm\n")
    for command, sentence in (
        (("status", "--once", "--gateway=http://127.0.0.1:1"), "no gateway answers at http://"),
        (("status", "--once", nowhere), "no node of the swarm answers at /ip4/"),
        (("plan", nowhere), "no node of the swarm answers at /ip4/"),
        (("plan", node, "--swarm=other"), "any model in swarm 'other'"),
        (("status", "--once", node, f"--swarm-secret-file={secret}"), "its secret is another"),
    ):
        code, said = await town.ask(*command)
        assert (code != 0, sentence in said, said.count("\n")) == (True, True, 1), said


async def test_an_operator_sees_every_model_and_who_is_gone(town: Town):
    gateway, node = f"--gateway={town.url}", f"--join={town.join}"
    assert await town.completeness(node) == {"one": True, "two": True}
    code, table = await town.ask("status", "--once", gateway)
    assert (code, table.count("complete")) == (0, 2)

    town.workers["two 3:6"].signal(signal.SIGKILL)

    async def is_missed() -> bool:
        return not await town.is_covered("two")

    print(f"{await until(is_missed, 15):.2f} s until the gateway misses a worker that is killed")
    code, table = await town.ask("status", "--once", gateway)
    assert (code, "nobody hosts 3:6" in table) == (1, True)


@pytest.mark.slow
async def test_once_its_lease_has_passed_others_miss_it_too_and_plan_for_it(town: Town):
    node = f"--join={town.join}"
    town.workers["two 3:6"].signal(signal.SIGKILL)

    async def is_missed_in_the_dht() -> bool:
        return await town.completeness(node) == {"one": True, "two": False}

    await until(is_missed_in_the_dht)
    code, plan = await town.ask("plan", node, "--fits=3", "--explain")
    assert (code, plan.startswith("two@")) == (0, True)
    assert "takes 3:6:\n  nobody hosts 3:6" in plan
