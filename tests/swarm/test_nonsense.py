"""A worker whose numbers are none is found out and replaced, and no token is the worse for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.wire.messages import Step
from tests.inprocess import swarm
from tests.models import build, save
from worker.server import WorkerServer
from worker.work import Outcome

PROMPT = tuple(range(10, 40))
TWINS = ("0:2", "0:2", "2:4", "2:4", "4:6", "4:6")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama", seed=5), tmp_path_factory.mktemp("models") / "honest")


@pytest.mark.parametrize("pair", [0, 1, 2])
async def test_a_worker_that_sends_no_numbers_is_replaced(
    directory: Path, pair: int, monkeypatch: pytest.MonkeyPatch
):
    async with swarm(directory, TWINS) as made:
        expected = await made.greedy(PROMPT, 12, tenant="one")
        guilty: list[WorkerServer] = []
        for server in made.servers[2 * pair : 2 * pair + 2]:
            monkeypatch.setattr(server, "_on_done", garbling(server, guilty))
        assert await made.greedy(PROMPT, 12, tenant="two") == expected
        assert guilty
        if pair < 2:  # the last span sends tokens, and these it sent right
            assert made.metrics.takeovers.labels("loss")._value.get() == 2


def garbling(server: WorkerServer, guilty: list[WorkerServer]) -> Callable[[Step, Outcome], None]:
    """Hands on what is no number, if it is the first of these servers to do anything."""
    done = server._on_done

    def hand_on(step: Step, outcome: Outcome) -> None:
        guilty[:] = guilty or [server]
        if guilty == [server] and outcome.payload:
            nothing = np.full(len(outcome.payload) // 4, np.nan, np.float32).tobytes()
            outcome = replace(outcome, payload=nothing)
        done(step, outcome)

    return hand_on
