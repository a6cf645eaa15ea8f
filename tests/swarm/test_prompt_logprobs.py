"""The likelihood of a prompt's own tokens, told by a swarm, is what the whole model says."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from shared.errors import StepRefused
from shared.wire.messages import TokenLogprobs
from tests.inprocess import InProcessSwarm, swarm
from worker.engine import Engine
from worker.scoring import MAX_SCORED
from worker.work import Work

SPANS = ["0:2", "2:4", "4:6"]
PROMPT = [(7 * i) % 300 + 10 for i in range(150)]


async def scores(s: InProcessSwarm, num_logprobs: int = 3) -> tuple[TokenLogprobs, ...]:
    first, second = await s.tokens(PROMPT, 2, num_prompt_logprobs=num_logprobs)
    assert second.prompt_logprobs == ()
    return first.prompt_logprobs


@torch.inference_mode()
def assert_right(
    told: tuple[TokenLogprobs, ...], model: PreTrainedModel, num_logprobs: int = 3
) -> None:
    """As transformers has it, in float32."""
    log_p = model(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    assert len(told) == len(PROMPT) - 1
    for row, token_id, one in zip(log_p, PROMPT[1:], told, strict=False):
        assert one.chosen == pytest.approx(row[token_id].item(), abs=1e-4)
        top, top_ids = row.topk(num_logprobs)
        assert one.top == pytest.approx(top.tolist(), abs=1e-4)
        assert list(one.top_ids) == top_ids.tolist()
        assert one.rank == 1 + int((row > row[token_id]).sum())


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"chunk_tokens": 40},
        {"max_step_tokens": 7},
        {"chunk_tokens": 100, "max_step_tokens": 70},
    ],
    ids=str,
)
async def test_they_are_those_of_the_whole_model_however_the_prompt_is_cut(
    sizes: dict[str, int], model: PreTrainedModel, directory: Path
):
    async with swarm(directory, SPANS, **sizes) as s:
        assert_right(await scores(s), model)


async def test_they_change_no_token(model: PreTrainedModel, directory: Path):
    async with swarm(directory, SPANS) as s:
        scored = [token.token_id for token in await s.tokens(PROMPT, 8, num_prompt_logprobs=0)]
        assert scored == await s.greedy(PROMPT, 8)


async def test_all_of_a_prompt_is_run_even_if_workers_still_have_it(
    model: PreTrainedModel, directory: Path
):
    async with swarm(directory, SPANS) as s:
        await s.greedy(PROMPT, 2)
        s.take_counts()
        first, *_ = await s.tokens(PROMPT, 2, num_prompt_logprobs=3)
        assert first.cached_tokens == 0
        assert s.take_counts() == [151] * 3
        assert_right(first.prompt_logprobs, model)
        first, *_ = await s.tokens(PROMPT, 2)  # what was scored may be reused by others
        assert first.cached_tokens == 128


async def test_the_last_hop_never_scores_more_rows_at_a_time_than_it_may(directory: Path):
    async with swarm(directory, SPANS) as s:
        rows: list[int] = []
        last = s.engines[-1]._model
        run = last.run

        def noted(inputs, segments, active, keep):
            rows.append(len(keep))
            return run(inputs, segments, active, keep)

        last.run = noted
        await scores(s)
    assert max(rows) == MAX_SCORED
    assert sum(rows) == len(PROMPT) + 1


async def test_a_worker_lost_between_two_scores_costs_none(model: PreTrainedModel, directory: Path):
    async with swarm(directory, [*SPANS, SPANS[-1]], chunk_tokens=70) as s:
        failed: list[Work] = []
        for engine in s.engines[2:]:
            fail_once(engine, failed)
        assert_right(await scores(s), model)
        assert failed


def fail_once(engine: Engine, failed: list[Work]) -> None:
    """Refuse the step that scores from the middle of the prompt, unless another has."""
    submit = engine.submit

    def submit_or_fail(work: Work) -> None:
        if work.position == MAX_SCORED and not failed:
            failed.append(work)
            work.on_failed(StepRefused("engine_failed", "as told"))
        else:
            submit(work)

    engine.submit = submit_or_fail
