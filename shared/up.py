"""`brigade up`: a whole swarm on this machine, each part a process of its own."""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

import httpx
from pydantic import Field
from pydantic_settings import BaseSettings

from shared.board import Board
from shared.child import Child, ChildEnded, stop_all
from shared.commands import OptionalPath, parse, settings_config
from shared.demo import ask, curl_line, what_is_wanting
from shared.errors import BrigadeError, ConfigError
from shared.logs import LogLevel
from shared.model_files import locate, name_of, read_spec
from shared.ports import check_port
from shared.state_file import write_state
from shared.swarm import Span

T = TypeVar("T")
GRACE_SECONDS = {"gateway": 30.0, "worker": 10.0, "bootstrap": 10.0}
"""How long each process may take to end, in the order in which they are told to."""
POLL_SECONDS = 0.2
QUESTION = "What is Bucket Brigade?"
EPILOG = """\
examples:
  brigade up                                 three workers, the bundled model
  brigade up --workers 2 --replicas 2        two spans, each on two workers: one of each may die
  brigade up --ask "Who are you?" --once     ask one question, print the answer, stop
"""


class UpSettings(BaseSettings):
    """Run a whole swarm on this machine: a bootstrap node, workers and a gateway.

    Each is a process of its own; Ctrl-C stops them all.
    """

    model_config = settings_config("UP_")

    model: str = Field("", description="model directory or OWNER/NAME[@REVISION]; empty = bundled")
    workers: int = Field(
        3, ge=1, le=64, description="spans the model's blocks are dealt into, each on a worker"
    )
    replicas: int = Field(
        1, ge=1, le=16, description="workers on each span, so WORKERS x REPLICAS processes in all"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format to compute in; auto = the model's own"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to compute; auto = CUDA when there is any"
    )
    quant: Literal["none", "int8", "nf4"] = Field(
        "none", description="bitsandbytes weights, to save memory; int8 is very slow on CPU"
    )
    threads: int = Field(0, ge=0, description="CPU threads of each worker; 0 = all cores")
    host: str = Field("127.0.0.1", min_length=1, description="address HTTP is served on")
    port: int = Field(8000, ge=0, le=65535, description="port HTTP is served on; 0 = any free")
    ask: str = Field("", description="question to ask once the swarm is up")
    once: bool = Field(False, description="stop once up, after the answer if something was asked")
    start_timeout_seconds: float = Field(
        600.0, gt=0, description="how long the swarm may take to come up"
    )
    log_level: LogLevel = Field("warning", description="least urgent events the processes log")
    state_file: OptionalPath = Field(
        None, description="file that gets pids, addresses and spans as JSON once ready"
    )


def main(argv: list[str]) -> int:
    """Run a swarm until it is told to stop; returns the exit status."""
    return asyncio.run(run(parse(UpSettings, argv, prog="brigade up", epilog=EPILOG)))


def deal(num_blocks: int, num_spans: int) -> list[Span]:
    """Spans that tile the model, their sizes differing by one block at most."""
    if num_spans > num_blocks:
        raise ConfigError(f"--workers {num_spans} is more than the model's {num_blocks} blocks")
    edges = [-(-num_blocks * index // num_spans) for index in range(num_spans + 1)]
    return [Span(start, end) for start, end in pairwise(edges)]


def worker_names(spans: Sequence[Span], replicas: int) -> dict[str, Span]:
    """A name for every worker process, and the span it hosts."""
    if replicas == 1:
        return {f"worker {span}": span for span in spans}
    return {f"worker {span} #{n + 1}": span for n in range(replicas) for span in spans}


def bootstrap_arguments(settings: UpSettings, key: Path) -> list[str]:
    """The command line of the bootstrap node. Names all that must not come from the environment."""
    return [
        *("bootstrap", "--host", "127.0.0.1", "--port", "0"),
        *("--public-address", "", "--join", "", "--peer-cache", ""),
        *("--identity", str(key), "--log-level", settings.log_level),
    ]


def worker_arguments(settings: UpSettings, key: Path, span: Span, join: str) -> list[str]:
    """The command line of one worker."""
    return [
        *("worker", "--model", settings.model, "--model-name", name_of(settings.model)),
        *("--blocks", str(span), "--join", join, "--swarm", "local"),
        *("--host", "127.0.0.1", "--port", "0", "--public-url", "", "--dht-port", "0"),
        *("--dtype", settings.dtype, "--device", settings.device, "--quant", settings.quant),
        *("--threads", str(settings.threads), "--state-file", ""),
        *("--identity", str(key), "--log-level", settings.log_level),
    ]


def gateway_arguments(settings: UpSettings, key: Path, join: str) -> list[str]:
    """The command line of the gateway."""
    return [
        *("gateway", "--model", settings.model, "--model-name", name_of(settings.model)),
        *("--host", settings.host, "--port", str(settings.port), "--dht-port", "0"),
        *("--join", join, "--swarm", "local", "--peer-cache", "", "--state-file", ""),
        *("--identity", str(key), "--log-level", settings.log_level, "--drain-seconds", "0"),
    ]


async def run(settings: UpSettings) -> int:
    """Bring a swarm up, keep it until a signal comes, stop every process of it."""
    spec = read_spec(locate(settings.model), name_of(settings.model))
    spans = deal(spec.num_blocks, settings.workers)
    check_port(settings.host, settings.port)
    if settings.state_file:
        settings.state_file.unlink(missing_ok=True)  # an older swarm's
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _set_once, stopped, number)
    with TemporaryDirectory(prefix="brigade-") as home, Board() as board:
        swarm = Swarm(settings, spans, Path(home), board)
        life = asyncio.create_task(swarm.live())
        try:
            await asyncio.wait({life, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return life.result() if life.done() else 128 + stopped.result()
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)  # it may be starting one just now
            board.note("stopping every process")
            # The gateway first, whose streams need the workers to end well; the bootstrap node
            # last, so that nobody misses it on the way out.
            for role, seconds in GRACE_SECONDS.items():
                children = [child for child in swarm.children if role_of(child.name) == role]
                await stop_all(children, grace_seconds=seconds)


def role_of(name: str) -> str:
    """`worker` of `worker 0:3 #1`."""
    return name.partition(" ")[0]


class Swarm:
    """The processes of one swarm, from the first start to the last question."""

    def __init__(
        self, settings: UpSettings, spans: Sequence[Span], home: Path, board: Board
    ) -> None:
        self.children: list[Child] = []
        self._settings = settings
        self._workers = worker_names(spans, settings.replicas)
        self._home = home
        self._board = board
        self._gone: asyncio.Queue[Child] = asyncio.Queue()
        self._wanting = ""

    async def live(self) -> int:
        """Come up, answer what was asked, then serve until the gateway ends or we are stopped."""
        try:
            async with asyncio.timeout(self._settings.start_timeout_seconds):
                url, join = await self._unless_one_ends(self._come_up())
        except TimeoutError as error:
            seconds = self._settings.start_timeout_seconds
            why = f": {self._wanting}" if self._wanting else ""
            raise BrigadeError(f"the swarm was not ready after {seconds:g} seconds{why}") from error
        self._settle(url, join)
        if self._settings.ask:
            await self._ask(url)
        if self._settings.once:
            return 0
        self._board.note("serving until Ctrl-C")
        return await self._serve()

    async def _come_up(self) -> tuple[str, str]:
        """Start everything; returns the addresses of the gateway, once it can answer, and of the
        node that others join through."""
        settings, home = self._settings, self._home
        bootstrap = await self._start("bootstrap", bootstrap_arguments(settings, home / "b.key"))
        join = await bootstrap.ready
        workers = {
            await self._start(
                name, worker_arguments(settings, home / f"w{index}.key", span, join)
            ): span
            for index, (name, span) in enumerate(self._workers.items())
        }
        gateway = await self._start("gateway", gateway_arguments(settings, home / "g.key", join))
        url = str(json.loads(await gateway.ready)["url"])
        hosted = [json.loads(await worker.ready) for worker in workers]
        await self._until_ready(url)
        if settings.state_file:
            write_state(
                settings.state_file,
                {
                    "gateway": {"pid": gateway.pid, "url": url},
                    "bootstrap": {"pid": bootstrap.pid, "multiaddr": join},
                    "workers": [worker_state(state) for state in hosted],
                },
            )
        return url, join

    async def _start(self, name: str, arguments: Sequence[str]) -> Child:
        child = await Child.start(name, arguments, show=self._board.show)
        self.children.append(child)
        self._board.show(name, f"starting (pid {child.pid})")
        child.ended.add_done_callback(lambda _: self._gone.put_nowait(child))
        return child

    async def _unless_one_ends(self, work: Awaitable[T]) -> T:
        """What `work` returns. Raises ChildEnded when a process ends meanwhile."""
        task = asyncio.ensure_future(work)
        gone = asyncio.create_task(self._gone.get())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ChildEnded(gone.result().reason)
            return task.result()
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def _until_ready(self, url: str) -> None:
        """Wait until the gateway says that its route is complete."""
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                wanting = await what_is_wanting(client, url)
                if wanting != self._wanting:
                    self._board.show("gateway", wanting or "ready to answer")
                self._wanting = wanting
                if not wanting:
                    return
                await asyncio.sleep(POLL_SECONDS)

    def _settle(self, url: str, join: str) -> None:
        for child in self.children:
            child.relays_errors = True
            for line in child.error_lines:
                print(f"{child.name} | {line}", file=sys.stderr, flush=True)
            child.error_lines.clear()
        self._board.settle()
        self._board.note(f"the swarm is up, with {len(self._workers)} workers")
        question = self._settings.ask or QUESTION
        curl = curl_line(url, name_of(self._settings.model), question)
        print(
            f"\n  API     {url}/v1\n  docs    {url}/docs\n  status  {url}/swarm\n"
            f"  join    {join}\n\n{curl}\n",
            flush=True,
        )

    async def _ask(self, url: str) -> None:
        print(f"\n> {self._settings.ask}\n", flush=True)
        async for piece in ask(url, name_of(self._settings.model), self._settings.ask):
            print(piece, end="", flush=True)
        print("\n", flush=True)

    async def _serve(self) -> int:
        """Say who leaves. A worker that ends stays down; without a gateway there is no swarm."""
        while True:
            child = await self._gone.get()
            if child.name == "gateway":
                raise ChildEnded(child.reason)
            self._board.note(f"{child.reason}\n  it stays down; the others go on")


def worker_state(ready: dict[str, Any]) -> dict[str, Any]:
    """What the state file says of a worker, from its ready line."""
    return {key: ready[key] for key in ("pid", "peer_id", "start", "end", "url")}


def _set_once(future: asyncio.Future[int], value: int) -> None:
    if not future.done():
        future.set_result(value)
