"""Real workers over a tiny random model and a real generator, all in this process.

Everything is as in separate processes, links included, but for discovery, which is in memory.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gateway.attach import AttachPort
from gateway.checkpoints import Checkpoints
from gateway.generate import SwarmGenerator
from gateway.generator import Token
from gateway.links import Links
from gateway.means import Limits
from gateway.metrics import GatewayMetrics
from shared.discovery.directory import MemoryDirectory
from shared.discovery.watcher import Watcher
from shared.identity import Identity
from shared.model_files import read_spec
from shared.records import sign_announcement
from shared.swarm import Announcement, ModelSpec, PeerId, Span, gateways_topic, topic_of
from shared.wire.messages import Sampling, WireDtype
from worker.engine import Engine
from worker.kv_cache import PAGE_TOKENS
from worker.server import WorkerServer
from worker.sessions import Sessions
from worker.weights import load_span
from worker.work import Work

SWARM = "tests"


class CountingEngine(Engine):
    """An engine that counts the tokens it is given to run, and knows through which blocks."""

    num_tokens = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        self.spans: set[Span] = set()
        super().__init__(*args, **options)

    def submit(self, work: Work) -> None:
        self.num_tokens += work.count
        self.spans.add(work.key[1])
        super().submit(work)


@dataclass
class InProcessSwarm:
    """Workers and a generator that found them."""

    spec: ModelSpec
    generator: SwarmGenerator
    engines: list[CountingEngine]
    servers: list[WorkerServer]
    links: Links
    metrics: GatewayMetrics
    announce: Callable[[int], Awaitable[None]]
    attach: Callable[[int], Awaitable[None]]

    async def greedy(self, prompt: Sequence[int], tokens: int, **options: Any) -> list[int]:
        """Greedy token ids."""
        return [token.token_id for token in await self.tokens(prompt, tokens, **options)]

    async def tokens(
        self,
        prompt: Sequence[int],
        tokens: int,
        *,
        num_prompt_logprobs: int | None = None,
        **options: Any,
    ) -> list[Token]:
        """Greedy tokens, with what comes beside them."""
        made = self.generator.generate(
            tuple(prompt),
            sampling=Sampling(temperature=0, num_prompt_logprobs=num_prompt_logprobs),
            max_tokens=tokens,
            stop_ids=frozenset(),
            **options,
        )
        return [token async for token in made]

    def index_of(self, worker: PeerId) -> int:
        """Which of the workers has this identity."""
        return [server.pool.identity.peer for server in self.servers].index(worker)

    async def crash(self, index: int) -> None:
        """Cut a worker's links and take all its sessions from it; it is back at once, empty."""
        server = self.servers[index]
        for link in server.pool.open_links():
            link._socket.transport.abort()
        self.engines[index].free(server.sessions.expire(math.inf))
        while server.pool.identity.peer in self.links.watcher.view:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await self.announce(index)

    def take_counts(self) -> list[int]:
        """Tokens each worker was given since the last call."""
        counts = [engine.num_tokens for engine in self.engines]
        for engine in self.engines:
            engine.num_tokens = 0
        return counts


@asynccontextmanager
async def swarm(
    directory: Path,
    spans: Sequence[str],
    *,
    kv_tokens: int = 4096,
    max_step_tokens: int = 512,
    chunk_tokens: int = 512,
    guess_tokens: int = 0,
    wire_dtype: WireDtype = "model",
    has_standbys: bool = False,
    trusted: Sequence[int] | None = None,
    checkpoint_bytes: int = 1 << 24,
    attached: Sequence[int] = (),
) -> AsyncIterator[InProcessSwarm]:
    """Workers of these spans of the model in `directory`, and a generator linked to them.

    `trusted` numbers the workers that may see tokens; None trusts all. Those that are `attached`
    announce no address and hold a link to the gateway.
    """
    spec = read_spec(directory, "tiny")
    phone_book = MemoryDirectory(time.monotonic)
    engines: list[CountingEngine] = []
    servers: list[WorkerServer] = []
    announcements: list[Announcement] = []
    gateway = Identity.create()
    port = AttachPort("127.0.0.1", 0)
    async with AsyncExitStack() as stack:
        for span in map(Span.parse, spans):
            model = load_span(directory, span)
            engine = CountingEngine(model, max_step_tokens=max_step_tokens)
            engine.start()
            stack.callback(engine.stop)
            identity = Identity.create()
            sessions = Sessions(
                span,
                pages_total=kv_tokens // PAGE_TOKENS,
                page_tokens=PAGE_TOKENS,
                max_sessions=64,
                lease_seconds=60,
            )
            server = WorkerServer(identity, SWARM, shape=model, sessions=sessions, engine=engine)
            listener = await server.pool.listen("127.0.0.1", 0)
            await stack.enter_async_context(listener)
            stack.push_async_callback(server.pool.close)
            number = next(iter(listener.sockets)).getsockname()[1]
            announcement = Announcement(
                worker=identity.peer,
                swarm=SWARM,
                model=spec.name,
                revision=spec.revision,
                span=span,
                num_blocks=spec.num_blocks,
                url="" if len(servers) in attached else f"ws://127.0.0.1:{number}",
                attached=(gateway.peer,) if len(servers) in attached else (),
                dtype="float32",
                sequence=1,
                issued_at=time.time(),
                lease_seconds=100,
            )
            announcements.append(announcement)
            engines.append(engine)
            servers.append(server)
        watcher_topic = topic_of(SWARM, spec.name, spec.revision)
        watcher = Watcher(phone_book, watcher_topic)

        async def announce(index: int) -> None:
            fresh = msgspec.structs.replace(
                announcements[index], sequence=time.time_ns(), issued_at=time.time()
            )
            signed = sign_announcement(servers[index].pool.identity, fresh)
            await phone_book.announce(fresh.topic, signed)
            await watcher.refresh()

        metrics = GatewayMetrics()
        links = Links(gateway, SWARM, watcher, doors=port.doors, metrics=metrics)
        stack.push_async_callback(links.close)
        await stack.enter_async_context(port.open(gateway, phone_book, [spec], [links]))
        found = Watcher(phone_book, gateways_topic(watcher_topic))

        async def attach(index: int) -> None:
            await found.refresh()
            at = found.view[gateway.peer]
            await servers[index].pool.connect(gateway.peer, at.url)
            while servers[index].pool.identity.peer not in links.linked():  # noqa: ASYNC110
                await asyncio.sleep(0)

        for index in range(len(servers)):
            if index in attached:
                await attach(index)
            await announce(index)
        peers = [server.pool.identity.peer for server in servers]
        limits = Limits(
            chunk_tokens,
            guess_tokens,
            step_timeout_seconds=30,
            recovery_timeout_seconds=30,
            wire_dtype=wire_dtype,
            has_standbys=has_standbys,
            trusted=None if trusted is None else frozenset(peers[index] for index in trusted),
        )
        generator = SwarmGenerator(spec, links, Checkpoints(checkpoint_bytes), limits, metrics)
        yield InProcessSwarm(spec, generator, engines, servers, links, metrics, announce, attach)
