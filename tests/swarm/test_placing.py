"""Workers that are told nothing but the model and a node cover it, and cover it again."""

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.models import build, save
from tests.swarm.nursery import Nursery, Nursling, nursery

NUM_BLOCKS = 24
REQUEST = {
    "model": "deep",
    "messages": [{"role": "user", "content": "Tell me a story about buckets and a long road."}],
    "temperature": 0,
    "max_tokens": 24,
    "stream": True,
}


@dataclass
class Crowd:
    """A gateway and workers that choose their blocks themselves."""

    url: str
    workers: list[Nursling]
    client: httpx.AsyncClient
    texts: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])

    async def covered(self, seconds: float = 90) -> float:
        """Wait until every block has a worker; how long that took."""
        return await self._ready(200, seconds)

    async def bare(self, seconds: float = 30) -> float:
        """Wait until some block has none; how long that took."""
        return await self._ready(503, seconds)

    async def _ready(self, status: int, seconds: float) -> float:
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while (await self.client.get("/ready")).status_code != status:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def until(self, num_answers: int, seconds: float = 90) -> None:
        """Wait until so many requests have been answered."""
        async with asyncio.timeout(seconds):
            while len(self.texts) + len(self.failures) < num_answers:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def ask_again_and_again(self) -> None:
        """Requests, one after the other."""
        while True:
            try:
                self.texts.append(await self._ask())
            except (httpx.HTTPError, KeyError, AssertionError) as error:
                self.failures.append(repr(error))

    async def _ask(self) -> str:
        text, finished = "", ""
        async with self.client.stream("POST", "/v1/chat/completions", json=REQUEST) as answer:
            if answer.status_code == 503:  # what comes while there is a gap: SDKs ask again
                await asyncio.sleep(0.5)
                return await self._ask()
            assert answer.status_code == 200, (await answer.aread()).decode()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    (choice,) = json.loads(line[6:])["choices"]
                    text += choice["delta"].get("content") or ""
                    finished = choice["finish_reason"] or finished
        assert finished == "length"
        return text


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build("llama", seed=7, num_hidden_layers=NUM_BLOCKS)
    return save(model, tmp_path_factory.mktemp("models") / "deep", shard="1MB")


@asynccontextmanager
async def crowd(
    directory: Path, home: Path, num_workers: int, max_blocks: int
) -> AsyncIterator[Crowd]:
    async with nursery() as made:
        bootstrap = await made.start(
            "bootstrap", "bootstrap", "--port=0", f"--identity={home / 'b.key'}"
        )
        join = (await bootstrap.wait_for(" ready: ")).partition(" ready: ")[2]
        gateway = await made.start(
            *("gateway", "gateway", f"--model={directory}", "--port=0", f"--join={join}"),
            *(f"--identity={home / 'g.key'}", "--recovery-timeout-seconds=180"),
            is_fresh=True,
        )
        url = (await gateway.ready())["url"]  # before the workers take all of the machine
        workers = await _start_in_random_order(made, directory, home, join, num_workers, max_blocks)
        async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
            yield Crowd(url, workers, client)


async def _start_in_random_order(
    made: Nursery, directory: Path, home: Path, join: str, num_workers: int, max_blocks: int
) -> list[Nursling]:
    order = random.Random(1).sample(range(num_workers), num_workers)
    return [
        await made.start(
            *(f"worker {index}", "worker", f"--model={directory}", f"--join={join}"),
            *(f"--identity={home / str(index)}.key", f"--max-blocks={max_blocks}"),
            *("--threads=1", "--settle-seconds=2", "--move-check-seconds=4", "--kv-tokens=2048"),
        )
        for index in order
    ]


@pytest.mark.timeout(300)
async def test_five_workers_cover_a_model_and_cover_it_again_when_one_dies(
    directory: Path, tmp_path: Path
):
    async with crowd(directory, tmp_path, num_workers=5, max_blocks=8) as made:
        await made.covered()
        asking = asyncio.create_task(made.ask_again_and_again())
        await made.until(2)
        made.workers[0].signal(signal.SIGKILL)
        await made.until(3)  # with it gone, and whatever it hosted hosted by others
        await made.covered()
        await made.until(6)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert made.failures == []
        assert len(set(made.texts)) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2))
async def test_ten_workers_lose_any_three_at_once_and_no_request(
    directory: Path, tmp_path: Path, seed: int
):
    async with crowd(directory, tmp_path, num_workers=10, max_blocks=6) as made:
        print(
            f"\nten workers that have just been started cover it in {await made.covered(180):.1f} s"
        )
        asking = [asyncio.create_task(made.ask_again_and_again()) for _ in range(2)]
        await made.until(4)
        for worker in random.Random(seed).sample(made.workers, 3):
            worker.signal(signal.SIGKILL)
        try:
            print(f"three are killed: it has a gap, seen in {await made.bare(2):.1f} s")
        except TimeoutError:
            print("three are killed: the others cover it")
        seconds = await made.covered(180)
        print(f"covered within {seconds:.1f} s")
        assert seconds < 60, "streams wait no longer at a gateway of default settings"
        await made.until(len(made.texts) + 4, 180)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert made.failures == []
        assert len(set(made.texts)) == 1
