"""A family whose sessions cannot share a forward is served one session at a time."""

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from shared.errors import StepRefused
from shared.swarm import SessionId, Span
from shared.wire.messages import Sampling, SamplingContext, Scoring, TokenLogprobs
from worker.engine import Engine
from worker.selftest import random_model
from worker.shrink import NUM_BLOCKS, tiny_config
from worker.span_model import SpanModel
from worker.tensors import to_payload
from worker.weights import load_span
from worker.work import Outcome, Work

WHOLE = Span(0, NUM_BLOCKS)
PROMPTS = {1: [5, 6, 7, 8], 2: [9, 10], 3: [11, 12, 13, 14, 15, 16]}


@pytest.fixture(scope="module", params=["gptj", "mamba2", "jamba"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SpanModel:
    directory: Path = tmp_path_factory.mktemp("alone") / request.param
    torch.manual_seed(0)
    random_model(tiny_config(request.param)).save_pretrained(directory)
    return load_span(directory, WHOLE)


@pytest.fixture
def engine(model: SpanModel) -> Iterator[Engine]:
    engine = Engine(model, max_step_tokens=64)
    engine.start()
    yield engine
    engine.stop()


def submit(engine: Engine, session: int, ids: list[int], position: int = 0) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    end = position + len(ids)
    engine.submit(
        Work(
            (SessionId(bytes([session]) * 16), WHOLE),
            position,
            len(ids),
            pages=8,
            payload=memoryview(to_payload(torch.tensor(ids, dtype=torch.int32))),
            dtype="int32",
            sample=(end - 1,),
            context=SamplingContext(Sampling(temperature=0), start=end),
            on_done=future.set_result,
            on_failed=future.set_exception,
        )
    )
    return future


def test_a_text_is_scored_by_what_the_tokens_before_each_make_likely(engine: Engine):
    ids = PROMPTS[3]
    ids = [*ids, token(submit(engine, 1, ids))]
    scoring = Scoring(1, to_payload(torch.tensor(ids[1:], dtype=torch.int32)))
    context = SamplingContext(Sampling(temperature=0, num_prompt_logprobs=1), scoring=scoring)
    told = [outcome for cut in ((0, 3), (3, 6)) for outcome in score(engine, ids, context, *cut)]
    assert (told[-1].rank, told[-1].top_ids) == (1, (ids[-1],))
    for position, one in enumerate(told[:-1], 1):
        assert one.top_ids == (token(submit(engine, 10 + position, ids[:position])),)


def score(
    engine: Engine, ids: list[int], context: SamplingContext, start: int, end: int
) -> tuple[TokenLogprobs, ...]:
    future: Future[Outcome] = Future()
    engine.submit(
        Work(
            (SessionId(bytes([2]) * 16), WHOLE),
            start,
            end - start,
            pages=8,
            payload=memoryview(to_payload(torch.tensor(ids[start:end], dtype=torch.int32))),
            dtype="int32",
            sample=(),
            context=context,
            on_done=future.set_result,
            on_failed=future.set_exception,
        )
    )
    return future.result(10).scores


def token(future: Future[Outcome]) -> int:
    (token_id,) = future.result(20).token_ids
    return token_id


def test_sessions_that_wait_together_give_what_each_alone_gives(engine: Engine, model: SpanModel):
    assert not model.batches
    alone = {i: [token(submit(engine, i, prompt))] for i, prompt in PROMPTS.items()}
    for i, prompt in PROMPTS.items():
        alone[i].append(token(submit(engine, i, alone[i], len(prompt))))
    firsts = {i: submit(engine, 10 + i, prompt) for i, prompt in PROMPTS.items()}
    assert {i: token(first) for i, first in firsts.items()} == {i: alone[i][0] for i in alone}
    seconds = {i: submit(engine, 10 + i, alone[i][:1], len(p)) for i, p in PROMPTS.items()}
    assert {i: token(second) for i, second in seconds.items()} == {i: alone[i][1] for i in alone}


def test_a_prompt_in_pieces_gives_what_it_gives_whole(engine: Engine):
    expected = token(submit(engine, 1, PROMPTS[3]))
    pieces = [submit(engine, 2, PROMPTS[3][at : at + 2], at) for at in (0, 2, 4)]
    assert token(pieces[-1]) == expected


def test_a_rewind_that_cannot_be_is_a_gap_from_the_start(engine: Engine, model: SpanModel):
    prompt = [3 + i % 90 for i in range(70)]
    expected = token(submit(engine, 1, prompt))
    again = submit(engine, 1, prompt[40:], 40)
    if error := again.exception(20):
        assert isinstance(error, StepRefused)
        assert (error.reason, error.cached) == ("position_gap", 0)
        again = submit(engine, 1, prompt)
    assert token(again) == expected
