"""A loss in mid-stream: what may still come of the hop before it, and what was prepared."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from msgspec.structs import replace

from gateway.patience import SETTLED_STEPS, Patience
from gateway.scout import Scout
from shared.errors import CheckpointLost
from shared.wire.messages import Checkpoint, Message, PayloadDtype, Step
from tests.gateway.test_generate import PROMPT, Gateway, until
from tests.scripted_worker import SPEC, ScriptedWorker

Said = list[tuple[Message, bytes]]
LOST_AT = 6
"""The position whose step the second hop does not answer."""


def copy_of(step: Step) -> Said:
    copy = Checkpoint(step.session, step.epoch, 2, step.position, step.count, "float32")
    return [(copy, bytes(step.count * SPEC.hidden_size * 4))]


class Line:
    """Two hops. The second dies of the step at LOST_AT; of that the first sends no copy yet."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.unsent: Said = []

    async def start(self) -> None:
        self.first = await self.gateway.add("0:2", self._run_first)
        self.second = await self.gateway.add("2:4")

    async def lose(self) -> None:
        """The second hop is gone, and another is there in its place."""
        await until(lambda: bool(self.unsent))
        self.third = await self.gateway.add("2:4")
        await self.gateway.links.prepare((self.third.hop,))
        await self.second.pool.close()
        await until(lambda: self.second.peer not in self.gateway.links.linked())

    def _run_first(self, worker: ScriptedWorker, step: Step) -> Said:
        if len(step.hops) == 1:
            return []
        if step.position == LOST_AT and not self.unsent:
            self.unsent = copy_of(step)
            return []
        following = self.second if step.hops[1].worker == self.second.peer else self.third
        following.take(replace(step, hops=step.hops[1:]))
        return copy_of(step)


@pytest.fixture
async def line():
    async with AsyncExitStack() as stack:
        made = Line(Gateway(stack, patience=5.0))
        await made.gateway.start()
        await made.start()
        yield made


async def tokens_of(gateway: Gateway, num: int) -> list[int]:
    return [token.token_id async for token in gateway.tokens(num)]


async def test_a_refill_waits_for_the_last_copy_so_that_the_step_can_follow_it(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Patience, "copy_left", lambda *_: 5.0)
    answer = asyncio.create_task(tokens_of(line.gateway, 6))
    await line.lose()
    assert line.third.steps == []
    line.first.say(line.unsent)
    assert await answer == list(range(len(PROMPT), len(PROMPT) + 6))
    assert [step.position for step in line.third.steps[:2]] == [0, LOST_AT]
    assert [s.position for s in line.first.steps].count(LOST_AT) == 1


async def test_a_copy_that_does_not_come_is_waited_for_no_longer(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    left = [0.01]
    monkeypatch.setattr(Patience, "copy_left", lambda *_: left.pop() if left else 0.0)
    answer = asyncio.create_task(tokens_of(line.gateway, 6))
    await line.lose()
    assert await answer == list(range(len(PROMPT), len(PROMPT) + 6))
    assert [s.position for s in line.first.steps].count(LOST_AT) == 2


async def test_a_route_is_prepared_for_losses_once_it_has_settled(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(Scout, "foresee", lambda _, r: seen.append(tuple(h.worker for h in r)))
    line.unsent = [(Checkpoint(b"", 0, 2, 0, 1, "float32"), b"")]  # nobody is lost
    await tokens_of(line.gateway, SETTLED_STEPS - 1)
    assert seen == []
    await tokens_of(line.gateway, 3 * SETTLED_STEPS)
    assert set(seen) == {(line.first.peer, line.second.peer)}


async def test_inputs_that_a_disk_does_not_give_back_are_rebuilt_from_further_upstream(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    def lost(*_: object) -> tuple[PayloadDtype, bytes]:
        monkeypatch.undo()
        raise CheckpointLost("the disk is gone")

    answer = asyncio.create_task(tokens_of(line.gateway, 6))
    await until(lambda: bool(line.unsent))
    monkeypatch.setattr(line.gateway.checkpoints, "rows", lost)
    await line.lose()
    assert await answer == list(range(len(PROMPT), len(PROMPT) + 6))
    again = [step for step in line.first.steps if step.epoch > 1]
    assert (again[0].position, again[0].hops[-1].worker) == (0, line.third.peer)
