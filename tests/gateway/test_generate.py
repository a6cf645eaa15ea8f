"""Generations over real links to workers that misbehave in every way."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from gateway.checkpoints import Checkpoints
from gateway.generate import Limits, SwarmGenerator
from gateway.links import Links
from shared.discovery.directory import MemoryDirectory
from shared.discovery.watcher import Watcher
from shared.errors import GenerationFailed, NoRoute
from shared.identity import Identity
from shared.swarm import Span, topic_of
from shared.wire.messages import Checkpoint, Message, Refused, Sampling, Step, Tokens
from tests.scripted_worker import SPEC, SWARM, Script, ScriptedWorker, count_up

PROMPT = (7, 8, 9)
EXPECTED = [3, 4, 5, 6]


@dataclass
class Gateway:
    """A generator over workers of this process."""

    stack: AsyncExitStack
    directory: MemoryDirectory = field(default_factory=lambda: MemoryDirectory(time.monotonic))
    checkpoints: Checkpoints = field(default_factory=lambda: Checkpoints(1 << 20))
    patience: float = 0.4

    async def start(self) -> None:
        topic = topic_of(SWARM, SPEC.name, SPEC.revision)
        self.watcher = Watcher(self.directory, topic, poll_seconds=0.05)
        self.links = Links(Identity.create(), SWARM, self.watcher)
        self.stack.push_async_callback(self.links.close)
        limits = Limits(512, 0, self.patience, self.patience)
        self.generator = SwarmGenerator(SPEC, self.links, self.checkpoints, limits)

    async def add(self, span: str, script: Script = count_up) -> ScriptedWorker:
        worker = ScriptedWorker(Span.parse(span), script)
        await self.stack.enter_async_context(worker.serving())
        await worker.announce(self.directory)
        await self.watcher.refresh()
        return worker

    def tokens(self, max_tokens: int = 4):
        return self.generator.generate(
            PROMPT, sampling=Sampling(), max_tokens=max_tokens, stop_ids=frozenset()
        )

    async def all_tokens(self) -> list[int]:
        return [token async for token in self.tokens()]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        made = Gateway(stack)
        await made.start()
        yield made


async def test_tokens_come_from_the_last_hop_of_a_route(gateway: Gateway):
    worker = await gateway.add("0:4")
    assert await gateway.all_tokens() == EXPECTED
    assert [step.position for step in worker.steps] == [0, 3, 4, 5]


async def test_the_session_is_freed_on_the_worker_at_the_end(gateway: Gateway):
    worker = await gateway.add("0:4")
    await gateway.all_tokens()
    await until(lambda: worker.closed == [worker.steps[0].session])


async def test_closing_the_generation_early_frees_it_too(gateway: Gateway):
    worker = await gateway.add("0:4")
    tokens = gateway.tokens(max_tokens=1000)
    assert await anext(tokens) == 3
    await tokens.aclose()
    await until(lambda: worker.closed == [worker.steps[0].session])
    assert gateway.checkpoints.num_bytes == 0


async def test_without_a_route_the_uncovered_blocks_are_named_at_once(gateway: Gateway):
    await gateway.add("0:2")
    with pytest.raises(NoRoute, match="2:4"):
        await gateway.all_tokens()


@pytest.mark.parametrize(
    "answer",
    [
        lambda step: Tokens(step.session, step.epoch, step.sample[0] + 1, (SPEC.vocab_size,)),
        lambda step: Refused(step.session, step.epoch, step.hops[0].worker, "engine_failed"),
        lambda step: Checkpoint(step.session, step.epoch, 4, 0, 1, "float32"),
    ],
    ids=["a token outside the vocabulary", "a refusal", "only nonsense"],
)
async def test_a_worker_that_fails_is_avoided_and_its_twin_gives_the_same_tokens(
    gateway: Gateway, answer
):
    def fail_once(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        return count_up(worker, step) if failed else failed.append(step) or [(answer(step), b"")]

    failed: list[Step] = []
    await gateway.add("0:4", fail_once)
    await gateway.add("0:4", fail_once)
    assert await gateway.all_tokens() == EXPECTED
    assert len(failed) == 1


async def test_a_silent_worker_is_lost_when_its_step_is_overdue(gateway: Gateway):
    def silent_once(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        return count_up(worker, step) if silenced else silenced.append(step) or []

    silenced: list[Step] = []
    await gateway.add("0:4", silent_once)
    await gateway.add("0:4", silent_once)
    started = time.monotonic()
    assert await gateway.all_tokens() == EXPECTED
    assert time.monotonic() - started < gateway.patience + 2


async def test_a_worker_whose_link_breaks_in_mid_stream_is_replaced(gateway: Gateway):
    async with AsyncExitStack() as first_life:
        first = ScriptedWorker(Span(0, 4))
        await first_life.enter_async_context(first.serving())
        await first.announce(gateway.directory)
        await gateway.watcher.refresh()
        tokens = gateway.tokens()
        assert await anext(tokens) == 3
        second = await gateway.add("0:4")
        await first_life.aclose()
    assert [token async for token in tokens] == EXPECTED[1:]
    assert second.steps[0].position == 0  # its cache is filled before the step goes on


async def test_without_a_replacement_the_stream_fails_honestly_after_its_patience(
    gateway: Gateway,
):
    async with AsyncExitStack() as life:
        worker = ScriptedWorker(Span(0, 4))
        await life.enter_async_context(worker.serving())
        await worker.announce(gateway.directory)
        await gateway.watcher.refresh()
        tokens = gateway.tokens()
        assert await anext(tokens) == 3
        await life.aclose()
    with pytest.raises(GenerationFailed, match="0:4") as caught:
        await anext(tokens)
    assert caught.value.reason == "worker_lost"


async def test_a_worker_that_cannot_be_dialled_is_passed_over(gateway: Gateway):
    dead = ScriptedWorker(Span(0, 4))
    dead.url = "ws://127.0.0.1:9"
    await dead.announce(gateway.directory)
    await gateway.watcher.refresh()
    with pytest.raises(NoRoute):
        await gateway.all_tokens()
    await gateway.add("0:4")
    assert await gateway.all_tokens() == EXPECTED


async def test_frames_about_unknown_sessions_are_ignored(gateway: Gateway):
    def gossip(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        return [(Tokens(bytes(16), 1, 3, (1,)), b""), *count_up(worker, step)]

    await gateway.add("0:4", gossip)
    assert await gateway.all_tokens() == EXPECTED


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
