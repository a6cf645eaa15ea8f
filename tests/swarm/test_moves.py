"""A worker that leaves hands its sessions over ahead of it; one that crashes has a standby."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from shared.swarm import Hop, Route
from shared.wire.messages import Sampling, Step
from tests.inprocess import InProcessSwarm, swarm
from tests.models import build, save
from tests.swarm.conftest import Up
from tests.swarm.processes import wait_until
from tests.swarm.test_lost_workers import REQUEST, busy_worker

PROMPT = tuple(range(10, 90))
TWINS = ("0:2", "0:2", "2:4", "2:4", "4:6", "4:6")
NUM_TOKENS = 80


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama", seed=5), tmp_path_factory.mktemp("models") / "moving")


@pytest.fixture
async def twins(directory: Path) -> AsyncIterator[InProcessSwarm]:
    async with swarm(directory, TWINS) as made:
        yield made


@pytest.fixture
async def guarded(directory: Path) -> AsyncIterator[InProcessSwarm]:
    async with swarm(directory, TWINS, has_standbys=True) as made:
        yield made


def tokens_of(made: InProcessSwarm):
    return made.generator.generate(
        PROMPT, sampling=Sampling(seed=4), max_tokens=NUM_TOKENS, stop_ids=frozenset()
    )


async def undisturbed(made: InProcessSwarm) -> list[int]:
    return [token.token_id async for token in tokens_of(made)]


async def slowly(made: InProcessSwarm) -> AsyncIterator[int]:
    """The same, taken one by one: a model this small would be done before anybody can move."""
    async for token in tokens_of(made):
        yield token.token_id
        await asyncio.sleep(0.005)


def leave(made: InProcessSwarm, index: int) -> None:
    """What a worker does first when it is told to stop."""
    made.servers[index].sessions.is_draining = True
    made.servers[index].tell_gateways()


def count(made: InProcessSwarm, kind: str) -> float:
    """How often hops went to other workers."""
    return made.metrics.takeovers.labels(kind)._value.get()


@pytest.mark.parametrize("pair", [0, 1, 2])
async def test_a_worker_that_leaves_is_empty_long_before_the_stream_ends(
    twins: InProcessSwarm, pair: int, monkeypatch: pytest.MonkeyPatch
):
    expected = await undisturbed(twins)
    route = watched_route(twins, monkeypatch)
    got: list[int] = []
    leaver, empty_at = -1, 0
    async for token_id in slowly(twins):
        got.append(token_id)
        if len(got) == 10:
            leaver = twins.index_of(route[pair].worker)
            leave(twins, leaver)
        if leaver >= 0 and not empty_at and not len(twins.servers[leaver].sessions):
            empty_at = len(got)
    assert got == expected
    assert 10 < empty_at < NUM_TOKENS - 10
    assert count(twins, "leave") == 1
    assert count(twins, "loss") == 0


async def test_all_of_a_route_may_leave_at_once(
    twins: InProcessSwarm, monkeypatch: pytest.MonkeyPatch
):
    expected = await undisturbed(twins)
    route = watched_route(twins, monkeypatch)
    got: list[int] = []
    async for token_id in slowly(twins):
        got.append(token_id)
        if len(got) == 10:
            for hop in tuple(route):
                leave(twins, twins.index_of(hop.worker))
    assert got == expected
    assert count(twins, "leave") == 3


@pytest.mark.parametrize("pair", [0, 1, 2])
async def test_a_standby_takes_over_from_a_worker_that_crashes(
    guarded: InProcessSwarm, pair: int, monkeypatch: pytest.MonkeyPatch
):
    expected = await undisturbed(guarded)
    route = watched_route(guarded, monkeypatch)
    got: list[int] = []
    async for token_id in slowly(guarded):
        got.append(token_id)
        if len(got) == 40:
            await guarded.crash(guarded.index_of(route[pair].worker))
    assert got == expected
    assert count(guarded, "standby") >= 1
    assert count(guarded, "loss") == 0


async def test_every_token_that_runs_again_is_counted(directory: Path):
    async with swarm(directory, TWINS, chunk_tokens=16, has_standbys=True) as made:
        await undisturbed(made)
        assert made.metrics.replayed_tokens._value.get() >= 3 * (len(PROMPT) + NUM_TOKENS // 2)


def watched_route(made: InProcessSwarm, monkeypatch: pytest.MonkeyPatch) -> list[Hop]:
    """The hops of the last step that went through the whole model."""
    route: list[Hop] = []
    post = made.links.post

    def watch(hops: Route, step: Step, payload: bytes) -> None:
        if step.sample and hops[0].span.start == 0:
            route[:] = hops
        post(hops, step, payload)

    monkeypatch.setattr(made.links, "post", watch)
    return route


async def test_a_standby_has_run_the_text_before_it_is_needed(guarded: InProcessSwarm):
    got = 0
    async for _ in slowly(guarded):
        got += 1
        if got == 40:
            assert all(len(server.sessions) == 1 for server in guarded.servers)
            assert all(tokens >= len(PROMPT) + 30 for tokens in guarded.take_counts())


async def test_when_the_stream_ends_nothing_is_left_anywhere(guarded: InProcessSwarm):
    await undisturbed(guarded)
    for server in guarded.servers:
        while len(server.sessions):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_worker_told_to_stop_in_mid_stream_is_gone_before_the_stream_ends(up: Up, tmp_path: Path):
    model = save(build("llama", seed=3, max_position_embeddings=1024), tmp_path / "twins")
    twins = up(model, "--replicas=2")
    request = {**REQUEST, "max_tokens": 300}
    expected = twins.client().chat.completions.create(model="twins", **request)
    text = ""
    leaver = None
    for num_chunks, chunk in enumerate(
        twins.client().chat.completions.create(model="twins", stream=True, **request)
    ):
        text += chunk.choices[0].delta.content or ""
        if num_chunks == 30:
            leaver = busy_worker(twins, (2, 4))
            os.kill(leaver, signal.SIGTERM)
            wait_until(partial(_is_gone, leaver), 10, "the worker has left")
    assert leaver is not None
    assert text == expected.choices[0].message.content


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
