"""Generations over real links to workers that misbehave in every way."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import msgspec
import pytest

from gateway.checkpoints import Checkpoints
from gateway.generate import SwarmGenerator
from gateway.generator import Token
from gateway.links import Links
from gateway.means import Limits
from shared.discovery.directory import MemoryDirectory
from shared.discovery.watcher import Watcher
from shared.errors import GenerationFailed, NoRoute, RefusalCode
from shared.identity import Identity
from shared.swarm import Span, topic_of
from shared.wire.messages import (
    Checkpoint,
    Message,
    Reading,
    Refused,
    Sampling,
    SamplingContext,
    Scores,
    Scoring,
    States,
    Step,
    TokenLogprobs,
    Tokens,
)
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

    async def start(self, *, settle_seconds: float = 0.0) -> None:
        topic = topic_of(SWARM, SPEC.name, SPEC.revision)
        self.watcher = Watcher(self.directory, topic, poll_seconds=0.05)
        self.links = Links(Identity.create(), SWARM, self.watcher, settle_seconds=settle_seconds)
        self.stack.push_async_callback(self.links.close)
        limits = Limits(512, 0, self.patience, self.patience)
        self.generator = SwarmGenerator(SPEC, self.links, self.checkpoints, limits)

    async def add(self, span: str, script: Script = count_up) -> ScriptedWorker:
        worker = ScriptedWorker(Span.parse(span), script)
        await self.stack.enter_async_context(worker.serving())
        await worker.announce(self.directory)
        await self.watcher.refresh()
        return worker

    def tokens(self, max_tokens: int = 4, sampling: Sampling = Sampling()):  # noqa: B008
        return self.generator.generate(
            PROMPT, sampling=sampling, max_tokens=max_tokens, stop_ids=frozenset()
        )

    async def all_tokens(self) -> list[int]:
        return [token.token_id async for token in self.tokens()]


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
    assert (await anext(tokens)).token_id == 3
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


LIKELY = TokenLogprobs(-0.5, (9,), (-0.5,))
ONE_LOGPROB = Sampling(num_logprobs=1)


def with_logprobs(*logprobs: TokenLogprobs) -> Script:
    def answer(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        ((tokens, _),) = count_up(worker, step)
        return [(msgspec.structs.replace(tokens, logprobs=logprobs), b"")]

    return answer


async def test_logprobs_come_with_their_tokens(gateway: Gateway):
    await gateway.add("0:4", with_logprobs(LIKELY))
    tokens = gateway.tokens(sampling=ONE_LOGPROB)
    assert [token async for token in tokens] == [Token(i, LIKELY) for i in EXPECTED]


async def test_a_worker_that_owes_its_logprobs_is_replaced(gateway: Gateway):
    def forget_once(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        script = with_logprobs(LIKELY) if forgot else count_up
        forgot.append(step)
        return script(worker, step)

    forgot: list[Step] = []
    await gateway.add("0:4", forget_once)
    await gateway.add("0:4", forget_once)
    tokens = gateway.tokens(sampling=ONE_LOGPROB)
    assert [token async for token in tokens] == [Token(i, LIKELY) for i in EXPECTED]


def scoring_of(step: Step) -> Scoring | None:
    context = step.context and msgspec.msgpack.decode(step.context, type=SamplingContext)
    return context.scoring if context else None


def with_scores(answered: Callable[[list[int]], list[int]] = list) -> Script:
    """The rank of the token at position p is p + 2, or what becomes of all ranks of a step."""

    def answer(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        if (scoring := scoring_of(step)) is None:
            return count_up(worker, step)
        count = len(scoring.token_ids) // 4
        ranks = answered([scoring.position + 2 + i for i in range(count)])
        told = tuple(TokenLogprobs(-1.0, rank=rank) for rank in ranks)
        scores = Scores(step.session, step.epoch, scoring.position, told)
        return [(scores, b"")] * bool(told) + count_up(worker, step)

    return answer


@pytest.mark.parametrize(
    "answered",
    [lambda ranks: [], lambda ranks: ranks[:1], lambda ranks: [0] * len(ranks)],
    ids=["none", "too few", "nonsense"],
)
async def test_a_worker_that_owes_its_scores_is_replaced(gateway: Gateway, answered):
    def fail_once(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        if failed and failed[0] is not worker:
            return with_scores()(worker, step)
        failed[:] = [worker]
        return with_scores(answered)(worker, step)

    failed: list[ScriptedWorker] = []
    for _ in range(2):
        await gateway.add("0:4", fail_once)
    tokens = [token async for token in gateway.tokens(sampling=Sampling(num_prompt_logprobs=0))]
    assert [token.token_id for token in tokens] == EXPECTED
    assert [told.rank for told in tokens[0].prompt_logprobs] == [3, 4]
    assert tokens[1].prompt_logprobs == ()


async def test_a_generation_that_is_resumed_is_not_scored_again(gateway: Gateway):
    worker = await gateway.add("0:4", with_scores())
    sampling = Sampling(num_prompt_logprobs=0)
    made = gateway.generator.generate(
        PROMPT, sampling=sampling, max_tokens=4, stop_ids=frozenset(), made=(3,)
    )
    assert [(token.token_id, token.prompt_logprobs) async for token in made] == [
        (4, ()),
        (5, ()),
        (6, ()),
    ]
    assert scoring_of(worker.steps[0]) is None


def refuse(code: RefusalCode) -> Script:
    def answer(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        return [(Refused(step.session, step.epoch, worker.peer, code, "it is too hard"), b"")]

    return answer


async def test_what_no_worker_can_do_fails_at_once_with_the_reason(gateway: Gateway):
    workers = [await gateway.add("0:4", refuse("bad_sampling")) for _ in range(2)]
    with pytest.raises(GenerationFailed, match="too hard") as caught:
        await gateway.all_tokens()
    assert caught.value.reason == "bad_sampling"
    assert sum(len(worker.steps) for worker in workers) == 1


async def test_where_nobody_can_follow_grammars_each_is_asked_once_and_the_failure_says_so(
    gateway: Gateway,
):
    workers = [await gateway.add("0:4", refuse("no_grammars")) for _ in range(2)]
    with pytest.raises(GenerationFailed, match="too hard"):
        await gateway.all_tokens()
    assert [len(worker.steps) for worker in workers] == [1, 1]


async def test_a_silent_worker_is_lost_when_its_step_is_overdue(gateway: Gateway):
    def silent_once(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        return count_up(worker, step) if silenced else silenced.append(step) or []

    silenced: list[Step] = []
    await gateway.add("0:4", silent_once)
    await gateway.add("0:4", silent_once)
    started = time.monotonic()
    assert await gateway.all_tokens() == EXPECTED
    assert time.monotonic() - started < gateway.patience + 2


async def test_a_step_is_not_slow_before_anything_is_known_of_how_long_they_take(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
):
    def slow(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        if step.position == 0:
            return count_up(worker, step)
        loop, (link,) = asyncio.get_running_loop(), worker.pool.open_links()
        for message, _ in count_up(worker, step):
            loop.call_later(0.1, link.post, message)
        return []

    monkeypatch.setattr("gateway.patience.LEAST_SLOW_SECONDS", 0.01)
    workers = [await gateway.add("0:4", slow) for _ in range(2)]
    tokens = gateway.tokens(max_tokens=2)
    assert [token.token_id async for token in tokens] == EXPECTED[:2]
    assert sum(bool(worker.steps) for worker in workers) == 1


async def test_an_answer_after_a_loss_does_not_put_off_the_end_for_ever(gateway: Gateway):
    async with AsyncExitStack() as life:
        ann = ScriptedWorker(Span(0, 2), lambda worker, step: [])
        await life.enter_async_context(ann.serving())
        await ann.announce(gateway.directory)
        cyd = await gateway.add("2:4")
        tokens = gateway.tokens()
        first = asyncio.ensure_future(anext(tokens))
        await until(lambda: ann.steps)
        (link,) = cyd.pool.open_links()
        session, epoch = ann.steps[0].session, ann.steps[0].epoch
        link.post(Tokens(session, epoch, 3, (3,)))
        assert (await first).token_id == 3
        await life.aclose()
    await until(lambda: ann.peer not in gateway.watcher.view)
    second = asyncio.ensure_future(anext(tokens))
    await asyncio.sleep(0)  # so that it hears of the loss before the answer
    link.post(Tokens(session, epoch, 4, (4,)))
    assert (await second).token_id == 4
    with pytest.raises(GenerationFailed, match="0:2"):
        async with asyncio.timeout(gateway.patience + 3):
            await anext(tokens)


async def test_a_worker_whose_link_breaks_in_mid_stream_is_replaced(gateway: Gateway):
    async with AsyncExitStack() as first_life:
        first = ScriptedWorker(Span(0, 4))
        await first_life.enter_async_context(first.serving())
        await first.announce(gateway.directory)
        await gateway.watcher.refresh()
        tokens = gateway.tokens()
        assert (await anext(tokens)).token_id == 3
        second = await gateway.add("0:4")
        await first_life.aclose()
    assert [token.token_id async for token in tokens] == EXPECTED[1:]
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
        assert (await anext(tokens)).token_id == 3
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
    assert dead.peer not in gateway.watcher.view  # until it announces itself anew
    await gateway.add("0:4")
    assert await gateway.all_tokens() == EXPECTED


async def test_frames_about_unknown_sessions_are_ignored(gateway: Gateway):
    def gossip(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        return [(Tokens(bytes(16), 1, 3, (1,)), b""), *count_up(worker, step)]

    await gateway.add("0:4", gossip)
    assert await gateway.all_tokens() == EXPECTED


async def test_junk_is_no_progress_and_does_not_put_off_the_deadline(gateway: Gateway):
    chatter: list[asyncio.Task[None]] = []

    def chat(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        async def talk() -> None:
            while True:
                for link in worker.pool.open_links():
                    link.post(Checkpoint(step.session, 0, 0, 0, 1, "float32"))
                await asyncio.sleep(0.05)

        if chatter:
            return count_up(worker, step)
        chatter.append(asyncio.create_task(talk()))
        return []

    await gateway.add("0:4", chat)
    await gateway.add("0:4", chat)
    async with asyncio.timeout(gateway.patience + 2):
        assert await gateway.all_tokens() == EXPECTED
    chatter[0].cancel()


async def test_when_every_replacement_refuses_the_end_is_not_put_off(gateway: Gateway):
    def refuse(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        return [(Refused(step.session, step.epoch, worker.peer, "no_pages", "full"), b"")]

    for _ in range(3):
        await gateway.add("0:4", refuse)
    with pytest.raises(GenerationFailed, match="full"):
        async with asyncio.timeout(gateway.patience + 3):
            await gateway.all_tokens()


async def test_a_silent_worker_is_left_out_of_the_next_request_too(gateway: Gateway):
    silent = await gateway.add("0:4", lambda worker, step: [])
    await gateway.add("0:2")
    with pytest.raises(GenerationFailed):
        await gateway.all_tokens()
    assert silent.peer in gateway.links.avoided()


async def test_checkpoints_beyond_the_text_are_not_kept(gateway: Gateway):
    def boast(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        far = Checkpoint(step.session, step.epoch, 4, 0, 1000, "float32")
        return [(far, bytes(1000 * SPEC.hidden_size * 4)), *count_up(worker, step)]

    await gateway.add("0:4", boast)
    tokens = gateway.tokens()
    await anext(tokens)
    assert gateway.checkpoints.num_bytes == 0
    await tokens.aclose()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


READING = Reading("states", (0, 2), (0, 4))


def tell(answered: Callable[[States], States] = lambda states: states) -> Script:
    """Each row holds its block and position, or what becomes of every answer."""

    def answer(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        told: list[tuple[Message, bytes]] = []
        for block in step.read.blocks if step.read else ():
            positions = step.read.positions if step.read else ()
            rows = b"".join(struct.pack("<2f", block, position) for position in positions)
            states = States(step.session, step.epoch, block, positions, "float32", 2)
            told.append((answered(states), rows))
        return told

    return answer


async def read(gateway: Gateway) -> dict[int, list[float]]:
    rows = await gateway.generator.read((*PROMPT, 9, 9), READING)
    data = {block: b"".join(its.parts) for block, its in rows.items()}
    return {b: list(struct.unpack(f"<{len(raw) // 4}f", raw)) for b, raw in data.items()}


async def test_a_text_is_read_up_to_the_last_position_that_is_asked_for(gateway: Gateway):
    worker = await gateway.add("0:4", tell())
    assert await read(gateway) == {0: [0, 0, 0, 2], 4: [4, 0, 4, 2]}
    (step,) = worker.steps
    assert (step.count, step.sample, step.read, step.prefix) == (3, (), READING, ())
    await until(lambda: worker.closed == [step.session])


@pytest.mark.parametrize(
    "change",
    [{"width": 1}, {"dtype": "float16"}, {"positions": (0, 1)}, {"block": 3}, {"positions": (2,)}],
    ids=str,
)
async def test_a_worker_that_tells_nonsense_or_too_little_is_replaced(gateway: Gateway, change):
    def lie_once(worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        if lied and lied[0] is not worker:
            return tell()(worker, step)
        lied[:] = [worker]
        return tell(lambda states: msgspec.structs.replace(states, **change))(worker, step)

    lied: list[ScriptedWorker] = []
    for _ in range(2):
        await gateway.add("0:4", lie_once)
    assert await read(gateway) == {0: [0, 0, 0, 2], 4: [4, 0, 4, 2]}
    assert lied


async def test_who_asks_a_gateway_that_has_just_started_waits_until_it_knows_its_workers():
    async with AsyncExitStack() as stack:
        gateway = Gateway(stack)
        await gateway.start(settle_seconds=30)
        keeper = asyncio.create_task(gateway.links.keep_linked())
        asking = [asyncio.create_task(gateway.all_tokens()) for _ in range(100)]
        await gateway.add("0:2")
        await gateway.add("0:4")
        async with asyncio.timeout(20):
            assert await asyncio.gather(*asking) == 100 * [EXPECTED]
        keeper.cancel()


async def test_but_not_for_long():
    async with AsyncExitStack() as stack:
        gateway = Gateway(stack)
        await gateway.start(settle_seconds=0.05)
        with pytest.raises(NoRoute):
            async with asyncio.timeout(5):
                await gateway.all_tokens()
