"""A thousand open streams through one gateway process: what a token's way takes, and costs.

The worker's answers are scripted and cost nothing; each stream gets a token a second, then all of
them as many as the gateway can pass on. What the gateway adds is measured from when the worker made
a token to when its reader had it; what a core can pass on, by the CPU time that the gateway's
process took from when all streams were open until all had ended. The barest relay is what Python
and its sockets cost without a gateway, see tests.bench.bare: no gateway here can be faster. With
--litellm PATH, LiteLLM's proxy does the same in front of an upstream that says the same.
`python -m tests.bench.load [--streams 1000] [--only "full speed"]`
"""

import argparse
import asyncio
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil

from shared import logs
from tests.bench import bare
from tests.bench.relay import Made, PacedWorker, Reader, announcement_of, upstream
from tests.bench.tables import show

KEY = "sk-bench"
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; from tests.bench.load_gateway import main; main()"
)
"""As `brigade gateway` has it."""
READY_SECONDS = 180
BAREST_FACTOR = 5
"""Else the first streams of the barest relay have ended before the last have begun."""
READING_SECONDS = 600


@dataclass(frozen=True)
class Load:
    """How many streams of how many tokens, each `pause` seconds after the one before."""

    streams: int
    tokens: int
    pause: float
    profile: str = ""


@dataclass(frozen=True)
class Server:
    """A relay under test."""

    url: str
    model: str
    process: psutil.Process

    @property
    def cpu_seconds(self) -> tuple[float, float]:
        """All it took, and the kernel's part of it: what its sockets cost."""
        times = [one.cpu_times() for one in self._family()]
        system = sum(one.system for one in times)
        return system + sum(one.user for one in times), system

    @property
    def bytes(self) -> int:
        return sum(one.memory_info().rss for one in self._family())

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


async def run(server: Server, load: Load, made: Made) -> list[object]:
    """One row of the table."""
    before = server.bytes
    readers = [
        Reader(made, stream, server.model, load.tokens, KEY) for stream in range(load.streams)
    ]
    address = httpx.URL(server.url)
    loop = asyncio.get_running_loop()
    for number, reader in enumerate(readers):
        await loop.create_connection(lambda r=reader: r, address.host, address.port)
        if number % 50 == 49:  # no faster than clients come: a listener's backlog is finite
            await asyncio.sleep(0.1)
    async with asyncio.timeout(READING_SECONDS):
        await asyncio.gather(*(reader.begun.wait() for reader in readers))
        open_bytes = server.bytes
        (cpu_before, system_before), num_before = server.cpu_seconds, made.num_seen
        began = time.perf_counter()
        await asyncio.gather(*(reader.ended.wait() for reader in readers))
    seconds, (cpu, system) = time.perf_counter() - began, server.cpu_seconds
    cpu, system = cpu - cpu_before, system - system_before
    num_tokens = made.num_seen - num_before
    if not (delays := made.delays) or not num_tokens:
        raise SystemExit("not one token came: see what the server says of it")
    return [
        load.streams,
        sum(not reader.is_whole for reader in readers),
        f"{num_tokens / seconds:,.0f}",
        f"{num_tokens / cpu:,.0f}",
        f"{1e6 * (cpu - system) / num_tokens:.0f}",
        f"{1e6 * system / num_tokens:.0f}",
        f"{1000 * delays[len(delays) // 2]:.1f}",
        f"{1000 * delays[int(0.99 * len(delays))]:.1f}",
        f"{(open_bytes - before) / load.streams / 1024:.0f}",
    ]


@asynccontextmanager
async def gateway(load: Load, made: Made) -> AsyncGenerator[Server]:
    """A gateway in a process of its own, linked to a worker in this one."""
    async with AsyncExitStack() as stack:
        worker = PacedWorker(made, load.streams, load.pause)
        await stack.enter_async_context(worker.serving())
        record = (await announcement_of(worker)).hex()
        command = [sys.executable, "-c", WITHOUT_TORCH, record]
        command += [f"--profile={load.profile}"] if load.profile else []
        yield await stack.enter_async_context(_running(command, "acme/tiny", "/ready"))


@asynccontextmanager
async def barest(made: Made) -> AsyncGenerator[Server]:
    """The relay that does nothing but relay."""
    async with bare.source(made) as port:
        command = [sys.executable, "-m", "tests.bench.bare", str(port)]
        async with _running(command, "", "/ready") as server:
            yield server


@asynccontextmanager
async def litellm(path: str, load: Load, made: Made) -> AsyncGenerator[Server]:
    """LiteLLM's proxy, in front of an upstream in this process."""
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(upstream(made, load.tokens, load.pause))
        config = scratch / "config.yaml"
        config.write_text(
            "model_list:\n- model_name: m\n  litellm_params:\n"
            f"    model: openai/m\n    api_base: {url}\n    api_key: any\n"
            f"general_settings:\n  master_key: {KEY}\n"
        )
        command = [path, "--config", str(config), "--host", "127.0.0.1"]
        yield await stack.enter_async_context(_running(command, "m", "/health/readiness"))


@asynccontextmanager
async def _running(command: list[str], model: str, ready: str) -> AsyncGenerator[Server]:
    """A process that serves HTTP on a free port, from when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(  # noqa: ASYNC220 - it is only started here
        [*command, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # else it asks the internet
    )
    try:
        url = f"http://127.0.0.1:{port}"
        await _until(lambda: httpx.get(url + ready).status_code == 200, process)
        yield Server(url, model, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


async def _until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    for _ in range(READY_SECONDS * 4):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode}")
        try:
            if await asyncio.to_thread(is_ready):
                return
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.25)
    raise SystemExit(f"the server was not ready within {READY_SECONDS} s")


def interpreter() -> str:
    """Which Python runs all but LiteLLM: builds of one version differ by a third in speed."""
    name = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{name}, {os.path.realpath(sys.executable)}"


async def measure(options: argparse.Namespace) -> list[list[object]]:
    """Both loads on each server."""
    loads = {
        "paced": Load(options.streams, options.tokens, 1.0),
        "full speed": Load(options.streams, options.fast_tokens, 0.0, options.profile),
    }
    if options.only:
        loads = {options.only: loads[options.only]}
    rows: list[list[object]] = []

    def done(row: list[object]) -> None:
        print(*row, flush=True)
        rows.append(row)

    for name, load in loads.items():
        made = Made()
        async with gateway(load, made) as server:
            done([f"brigade, {name}", *await run(server, load, made)])
        if not load.pause:
            made = Made()
            longer = replace(load, tokens=BAREST_FACTOR * load.tokens)
            async with barest(made) as server:
                done([f"barest relay, {name}", *await run(server, longer, made)])
        if options.litellm:
            made = Made()
            async with litellm(options.litellm, load, made) as server:
                done([f"LiteLLM, {name}", *await run(server, load, made)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--fast-tokens", type=int, default=100, help="of a stream at full speed")
    parser.add_argument("--only", choices=("paced", "full speed"))
    parser.add_argument("--profile", default="", help="file for cProfile's numbers at full speed")
    parser.add_argument("--litellm", metavar="PATH", help="LiteLLM's command, to compare with")
    logs.set_up("warning")
    rows = asyncio.run(measure(parser.parse_args()))
    show(
        f"one relay process on {interpreter()}, its readers and its source in another",
        [
            "server and load",
            "streams",
            "lost",
            "tokens/s",
            "per CPU s",
            "user us a token",
            "system us",
            "added ms p50",
            "p99",
            "KiB a stream",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
