"""How long a stream pauses when a worker of its route crashes or leaves, at several contexts.

A line of three spans with twins, real processes. The middle worker is killed, or told to stop,
in mid-stream. Beside each pause: how long it took until the gateway's link broke, what prefilling
the lost span over the text so far takes, the longest pause of a stream that nothing happens to, and
how long a client that begins the request again waits for as many tokens.
"Less a gap" leaves out the gap that there is between any two tokens.
`python -m tests.bench.stalls [--contexts 128 2048 8192]`
"""

import argparse
import asyncio
import json
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import httpx
import torch
from transformers import AutoTokenizer

from shared.swarm import SessionId, Span
from tests.bench.tables import show
from tests.models import build, save
from tests.swarm.nursery import Nursery, Nursling, nursery
from worker.kv_cache import PAGE_TOKENS, KvCache
from worker.weights import load_span

SPANS = ("0:3", "3:6", "6:9")
LOST = "3:6"
SIZE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 9,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 16384,
}
LINK_LOST = "worker_link_lost"
GATEWAYS = {"": (), "no checkpoints": ("--checkpoint-bytes=0",), "standby": ("--standby",)}
CASES = {
    "nothing": ("", None),
    "crash": ("", signal.SIGKILL),
    "crash, no checkpoints": ("no checkpoints", signal.SIGKILL),
    "crash, standby": ("standby", signal.SIGKILL),
    "planned leave": ("", signal.SIGTERM),
}
BEFORE, AFTER = 40, 60
"""Tokens before and after the event."""
SHADOWED = 160
"""Tokens of the answer that standbys must have been sent: they get so many only after they have run
the prompt."""
WORD = "road "
MOST = 2000
"""Tokens asked for: standbys take a while to have run a long context."""


@dataclass
class Swarm:
    """Processes, and where they listen."""

    nursery: Nursery
    home: Path
    model: Path
    join: str = ""
    urls: dict[str, str] = field(default_factory=dict)
    workers: dict[str, Nursling] = field(default_factory=dict)
    gateways: dict[str, Nursling] = field(default_factory=dict)
    num_started: int = 0

    async def bootstrap(self) -> None:
        node = await self.nursery.start("bootstrap", "bootstrap", *self._own("bootstrap"))
        self.join = (await node.wait_for(" ready: ")).partition(" ready: ")[2].strip()

    async def add_worker(self, span: str) -> None:
        self.num_started += 1
        name = f"worker{self.num_started}"
        worker = await self.nursery.start(
            name,
            "worker",
            f"--model={self.model}",
            f"--blocks={span}",
            f"--join={self.join}",
            "--dtype=float32",
            "--threads=1",
            "--kv-tokens=65536",
            *self._own(name),
        )
        self.workers[(await worker.ready())["peer_id"]] = worker

    async def add_gateway(self, name: str, *options: str) -> None:
        gateway = await self.nursery.start(
            name,
            "gateway",
            f"--model={self.model}",
            f"--join={self.join}",
            "--port=0",
            *self._own(f"gateway {name}".replace(" ", "-"), "info"),
            *options,
            "--log-format=json",
            is_fresh=True,
        )
        self.gateways[name] = gateway
        self.urls[name] = (await gateway.ready())["url"]

    def _own(self, name: str, log_level: str = "error") -> tuple[str, ...]:
        return (f"--identity={self.home / name}.key", f"--log-level={log_level}")


@asynccontextmanager
async def twins(home: Path, model: Path) -> AsyncIterator[Swarm]:
    async with nursery() as nurse:
        swarm = Swarm(nurse, home, model)
        await swarm.bootstrap()
        for span in (*SPANS, *SPANS):
            await swarm.add_worker(span)
        for name, options in GATEWAYS.items():
            await swarm.add_gateway(name, *options)
        yield swarm


async def serving(client: httpx.AsyncClient, url: str, span: str) -> str:
    """The worker of `span` that got the session: the first to tell of one."""
    while True:
        for worker in (await client.get(f"{url}/swarm")).json()["workers"]:
            is_its = f"{worker['start']}:{worker['end']}" == span
            if is_its and worker["status"] and worker["status"]["sessions"]:
                return worker["peer_id"]
        await asyncio.sleep(0.01)


async def all_there(client: httpx.AsyncClient, url: str) -> None:
    """Wait until every span has two workers, linked and idle."""
    while True:
        workers = (await client.get(f"{url}/swarm")).json()["workers"]
        ready = [w for w in workers if w["linked"] and w["status"] and not w["status"]["sessions"]]
        if len(ready) == len(workers) == 2 * len(SPANS):
            return
        await asyncio.sleep(0.1)


async def stream(client: httpx.AsyncClient, url: str, prompt: str) -> AsyncIterator[float]:
    """When each token came."""
    body = {
        "model": "stalls",
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": MOST,
        "logprobs": True,  # one chunk for each token, text or not
        "stream": True,
    }
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            assert answer.status_code == 200, line
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                for choice in chunk["choices"]:
                    for _ in (choice.get("logprobs") or {}).get("content") or ():
                        yield time.perf_counter()


@dataclass(frozen=True)
class Pause:
    """Seconds of one stream: the longest gap after the event, the usual gap, from the event to
    the broken link, and from asking to the event. `length` is the text's, in tokens."""

    longest: float
    usual: float
    detection: float
    asked: float
    length: int


async def pause(
    swarm: Swarm,
    client: httpx.AsyncClient,
    gateway: str,
    number: signal.Signals | None,
    prompt: str,
    context: int,
) -> Pause:
    url = swarm.urls[gateway]
    await all_there(client, url)
    finding = asyncio.create_task(serving(client, url, LOST))
    following = asyncio.create_task(standbys_follow(client, url, gateway, context))
    asked = time.perf_counter()
    stamps: list[float] = []
    lost, at, struck = "", 0, 0.0
    async for stamp in stream(client, url, prompt):
        stamps.append(stamp)
        if not at and len(stamps) >= BEFORE and following.done():
            lost, at, struck = await finding, len(stamps), time.time()
            if number is not None:
                swarm.workers[lost].signal(number)
        if at and len(stamps) == at + AFTER:
            break
    assert at, "the answer ended too soon"
    detection = 0.0
    if number is not None:
        await swarm.workers.pop(lost).end(60)
        detection = await link_lost(swarm.gateways[gateway], lost) - struck
        await swarm.add_worker(LOST)
    gaps = [after - before for before, after in pairwise(stamps)]
    usual = statistics.median(gaps[at - BEFORE : at - 1])
    return Pause(max(gaps[at - 1 :]), usual, detection, stamps[BEFORE - 1] - asked, context + at)


async def link_lost(gateway: Nursling, worker: str) -> float:
    """When a gateway lost its link to a worker, in seconds since the epoch, by its own log."""
    while True:
        for line in gateway.lines:
            if LINK_LOST in line and worker in line:
                return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
        await asyncio.sleep(0.01)


def tokens_per_word(model: Path) -> int:
    """Of WORD, as the model's tokenizer cuts it."""
    return len(AutoTokenizer.from_pretrained(model)(WORD * 100)["input_ids"]) // 100


async def standbys_follow(client: httpx.AsyncClient, url: str, gateway: str, context: int) -> None:
    """Wait until the standbys, if there are any, have run the context and some tokens more."""
    before = await replayed(client, url)
    enough = len(SPANS) * (context + SHADOWED)
    while True:
        if gateway != "standby" or await replayed(client, url) >= before + enough:
            return
        await asyncio.sleep(0.1)


async def replayed(client: httpx.AsyncClient, url: str) -> float:
    """Tokens run again, by the gateway's own count."""
    page = (await client.get(f"{url}/metrics")).text
    name = "brigade_gateway_replayed_tokens_total "
    return next(float(line[len(name) :]) for line in page.splitlines() if line.startswith(name))


def prefill_seconds(model: Path, context: int) -> float:
    """What the lost span takes to run a context, in the chunks a worker runs it in."""
    torch.set_num_threads(1)
    span = Span.parse(LOST)
    blocks = load_span(model, span, dtype=torch.float32)
    inputs = torch.randn(context, blocks.hidden_size)
    cache, key = KvCache(), (SessionId(bytes(16)), span)
    started = time.perf_counter()
    for start in range(0, context, 512):
        count = min(512, context - start)
        segment = cache.segment(key, start, count, -(-context // PAGE_TOKENS))
        blocks.run(inputs[start : start + count], [segment], span, [])
    return time.perf_counter() - started


async def measure(home: Path, model: Path, contexts: list[int], rounds: int) -> list[list[object]]:
    rows: list[list[object]] = []
    limits = httpx.Timeout(600)
    async with twins(home, model) as swarm, httpx.AsyncClient(timeout=limits) as client:
        for context in contexts:
            prompt = WORD * (context // tokens_per_word(model))
            for case, (gateway, number) in CASES.items():
                found = [
                    await pause(swarm, client, gateway, number, f"{n} {case} {prompt}", context)
                    for n in range(rounds)
                ]
                prefill = statistics.median(prefill_seconds(model, one.length) for one in found)
                rows.append(row(context, case, found, prefill))
                print(*rows[-1], flush=True)
    return rows


def row(context: int, case: str, found: list[Pause], prefill: float) -> list[object]:
    def median(name: str) -> float:
        return statistics.median(getattr(one, name) for one in found)

    stall, usual, is_crash = median("longest"), median("usual"), case.startswith("crash")
    detection = median("detection") if is_crash else 0.0
    bound = detection + prefill
    return [
        context,
        case,
        f"{stall * 1e3:.0f}",
        f"{usual * 1e3:.1f}",
        f"{stall / usual:.1f}",
        f"{detection * 1e3:.0f}" if is_crash else "-",
        f"{prefill * 1e3:.0f}",
        f"{stall / bound:.2f}" if is_crash else "-",
        f"{(stall - usual) / bound:.2f}" if is_crash else "-",
        f"{median('asked') * 1e3:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 2048, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = save(build("llama", **SIZE), Path(scratch) / "stalls", shard="1GB")
        rows = asyncio.run(measure(Path(scratch), model, options.contexts, options.rounds))
    columns = ["context", "event", "stall ms", "usual gap ms", "stall / gap"]
    columns += ["detection ms", "span prefill ms", "stall / both", "less a gap"]
    columns += ["beginning again ms"]
    show("pauses of one stream when the middle of three workers goes, medians", columns, rows)


if __name__ == "__main__":
    main()
