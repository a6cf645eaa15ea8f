"""Workers that cannot dial each other hand their steps to the gateway, and nobody can tell."""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from shared.wire.messages import Relay, Sampling, Step
from tests.inprocess import InProcessSwarm, swarm
from tests.models import build, save
from worker.server import WorkerServer

PROMPT = tuple(range(10, 90))
NUM_TOKENS = 40
HALVES = ("0:3", "3:6", "3:6")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama", seed=5), tmp_path_factory.mktemp("models") / "attached")


@pytest.fixture(scope="module")
def expected(directory: Path) -> list[int]:
    async def alone() -> list[int]:
        async with swarm(directory, ("0:6",)) as made:
            return await tokens_of(made)

    return asyncio.run(alone())


@pytest.fixture
async def hidden(directory: Path) -> AsyncIterator[InProcessSwarm]:
    """A swarm in which nobody can dial anybody."""
    async with swarm(directory, HALVES, attached=(0, 1, 2)) as made:
        yield made


def relayed(made: InProcessSwarm) -> float:
    return made.metrics.relayed_frames._value.get()


async def until(claim) -> None:
    async with asyncio.timeout(10):
        while not claim():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def slowly(made: InProcessSwarm, tenant: str = "") -> AsyncIterator[int]:
    """Tokens taken one by one: a model this small would be done before anything can happen."""
    tokens = made.generator.generate(
        PROMPT,
        sampling=Sampling(seed=4),  # the likeliest token is one and the same all along
        max_tokens=NUM_TOKENS,
        stop_ids=frozenset(),
        tenant=tenant,
    )
    async for token in tokens:
        yield token.token_id
        await asyncio.sleep(0.005)


async def tokens_of(made: InProcessSwarm, tenant: str = "") -> list[int]:
    return [token async for token in slowly(made, tenant)]


def last_of(made: InProcessSwarm) -> int:
    """Which worker runs the last blocks of the one session there is."""
    return next(index for index in (1, 2) if len(made.servers[index].sessions))


async def test_steps_pass_through_the_gateway_and_tokens_are_the_same(
    hidden: InProcessSwarm, expected: list[int]
):
    assert await tokens_of(hidden) == expected
    assert relayed(hidden) >= NUM_TOKENS
    assert not any(
        server.pool.get(other.pool.identity.peer)
        for server in hidden.servers
        for other in hidden.servers
    )


async def test_of_prompts_in_many_chunks_none_overtakes_another(
    directory: Path, expected: list[int]
):
    async with swarm(directory, HALVES, attached=(0, 1, 2), chunk_tokens=4) as made:
        assert await tokens_of(made) == expected
        assert made.metrics.takeovers.labels("loss")._value.get() == 0


async def test_a_worker_that_is_gone_in_mid_stream_is_replaced_at_once(
    hidden: InProcessSwarm, expected: list[int]
):
    got: list[int] = []
    began = 0.0
    async for token_id in slowly(hidden):
        got.append(token_id)
        if len(got) == 10:
            began = time.monotonic()
            await hidden.crash(last_of(hidden))
        if len(got) == 12:
            assert time.monotonic() - began < 5  # no step had to time out
    assert got == expected
    assert hidden.metrics.takeovers.labels("loss")._value.get() == 1


async def test_a_worker_that_leaves_hands_its_sessions_over_ahead_of_it(
    hidden: InProcessSwarm, expected: list[int]
):
    got: list[int] = []
    async for token_id in slowly(hidden):
        got.append(token_id)
        if len(got) == 10:
            leaver = hidden.servers[last_of(hidden)]
            leaver.sessions.is_draining = True
            leaver.tell_gateways()
    assert got == expected
    assert hidden.metrics.takeovers.labels("leave")._value.get() == 1


async def test_a_worker_that_attaches_anew_has_lost_what_was_on_its_way(
    hidden: InProcessSwarm, expected: list[int]
):
    """Its old link looks alive to the gateway: nothing but the new one tells that it is not."""
    got: list[int] = []
    async for token_id in slowly(hidden):
        got.append(token_id)
        if len(got) == 10:
            index = last_of(hidden)
            pool, gateway = hidden.servers[index].pool, hidden.links.peer
            old = pool.get(gateway)
            assert old is not None
            old.is_open = False  # the worker's side has given it up; frames on it are not read
            old._socket.transport.pause_reading()
            await hidden.attach(index)
    assert got == expected


async def test_where_only_one_cannot_be_dialled_it_dials_the_other(
    directory: Path, expected: list[int]
):
    async with swarm(directory, ("0:3", "3:6"), attached=(1,)) as made:
        assert await tokens_of(made, "one") == expected
        first, last = made.servers
        await until(lambda: first.pool.get(last.pool.identity.peer))
        before = relayed(made)
        assert await tokens_of(made, "two") == expected
        assert relayed(made) == before


async def test_workers_that_cannot_dial_each_other_though_announced_use_the_gateway(
    directory: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
):
    async with swarm(directory, ("0:3", "3:6")) as made:
        first, _ = made.servers
        real = first.pool.connect

        async def connect(peer, url, certificate=b""):
            return await real(peer, "ws://127.0.0.1:1", certificate)

        monkeypatch.setattr(first.pool, "connect", connect)
        assert await tokens_of(made) == expected
        assert relayed(made) >= NUM_TOKENS


async def test_a_worker_attached_elsewhere_is_used_by_nobody_here(directory: Path):
    async with swarm(directory, ("0:6", "0:6"), attached=(1,)) as made:
        there = made.servers[1].pool
        link = there.get(made.links.peer)
        assert link is not None
        link._socket.transport.abort()
        await until(lambda: there.identity.peer not in made.links.linked())
        await made.announce(1)
        assert there.identity.peer in made.links.watcher.view
        roster = made.links.roster(made.spec.num_blocks)
        assert roster.get(there.identity.peer) is None
        assert len(await made.greedy(PROMPT, 3)) == 3
        assert len(made.engines[1].spans) == 0


async def test_garbage_from_the_worker_before_has_it_replaced_and_harms_nobody_else(
    directory: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
):
    """The gateway does not look into what it passes on; who receives it does."""
    quarters = ("0:3", "0:3", "3:6", "3:6")
    async with swarm(directory, quarters, attached=range(4)) as made:
        hostile: list[WorkerServer] = []

        def relay(server: WorkerServer, step: Step, frame: bytes) -> None:
            hostile[:] = hostile or [server]
            link = server.pool.get(step.gateway)
            assert link is not None
            sent = b"garbage" if server in hostile else frame
            link.post(Relay(step.session, step.epoch, step.hops[1].worker), sent)

        for server in made.servers[:2]:
            monkeypatch.setattr(server, "_relay", partial(relay, server))
        assert await tokens_of(made) == expected
        assert hostile
        assert len(made.links.attached()) == 4
