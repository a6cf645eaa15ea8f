"""One thread runs everybody's steps together, and each session sees only its own."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from shared.errors import StepRefused
from shared.grammars import load_vocabulary
from shared.model_files import BUNDLED
from shared.swarm import SessionId, Span
from shared.wire.messages import Grammar, PayloadDtype, Sampling, SamplingContext, Scoring
from tests.models import NUM_BLOCKS, build, save
from worker.capacity import layout_of
from worker.engine import Engine
from worker.grammar import Grammars
from worker.kv_cache import KvCache
from worker.page_pool import PagePool
from worker.span_model import SpanModel
from worker.tensors import to_payload
from worker.weights import load_span
from worker.work import Outcome, Work

torch.set_num_threads(1)  # so small that threads only get in each other's way

WHOLE = Span(0, NUM_BLOCKS)
FIRST, REST = Span(0, 2), Span(2, NUM_BLOCKS)
PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpanModel:
    return load_span(save(build("llama"), tmp_path_factory.mktemp("engine") / "m"), WHOLE)


class Gate:
    """A model that waits until it is let on, noting how many sessions each batch has."""

    def __init__(self, model: SpanModel) -> None:
        self.batches: list[int] = []
        self.failures: list[Exception] = []
        self.num_garbled = 0
        self.entered = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, inputs: Any, segments: Any, active: Span, keep: Sequence[int]) -> torch.Tensor:
        self.batches.append(len(segments))
        self.entered.set()
        assert self.open.wait(10)
        if self.failures:
            raise self.failures.pop()
        out = self._model.run(inputs, segments, active, keep)
        good = out[self.num_garbled :]
        return torch.cat([torch.full_like(out[: self.num_garbled], torch.nan), good])


@pytest.fixture
def gate(model: SpanModel) -> Gate:
    return Gate(model)


@pytest.fixture
def engine(gate: Gate) -> Iterator[Engine]:
    engine = Engine(gate, max_step_tokens=64)  # type: ignore[arg-type]
    engine.start()
    yield engine
    gate.open.set()
    engine.stop()


def key(session: int, span: Span = WHOLE) -> tuple[SessionId, Span]:
    return SessionId(bytes([session]) * 16), span


def submit(
    engine: Engine,
    session: int,
    inputs: Sequence[int] | torch.Tensor,
    *,
    position: int = 0,
    span: Span = WHOLE,
    sample: bool = True,
    sampling: Sampling = Sampling(temperature=0),  # noqa: B008
    dtype: PayloadDtype | None = None,
    goes_on: bool = True,
) -> Future[Outcome]:
    """Queue a step; what becomes of it."""
    future: Future[Outcome] = Future()
    tensor = torch.as_tensor(inputs, dtype=None if span.start else torch.int32)
    count = len(tensor)
    engine.submit(
        Work(
            key(session, span),
            position,
            count,
            pages=4,
            payload=memoryview(to_payload(tensor)),
            dtype=dtype or ("float32" if span.start else "int32"),
            sample=(position + count - 1,) if sample and span.end == NUM_BLOCKS else (),
            context=SamplingContext(sampling, start=position + count),
            on_done=future.set_result,
            on_failed=future.set_exception,
            goes_on=goes_on,
        )
    )
    return future


def token(future: Future[Outcome]) -> int:
    (token_id,) = future.result(10).token_ids
    return token_id


def reason(future: Future[Outcome]) -> str:
    error = future.exception(10)
    assert isinstance(error, StepRefused)
    return error.reason


def generate(engine: Engine, session: int, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    tokens.append(token(submit(engine, session, tokens)))
    while len(tokens) < len(prompt) + count:
        tokens.append(token(submit(engine, session, tokens[-1:], position=len(tokens) - 1)))
    return tokens[len(prompt) :]


def scored(
    engine: Engine, session: int, tokens: Sequence[int], *, count: int, sample: Sequence[int] = ()
) -> Future[Outcome]:
    """Queue the first `count` tokens, to be scored by those that follow."""
    future: Future[Outcome] = Future()
    ids = to_payload(torch.tensor(tokens, dtype=torch.int32))
    scoring = Scoring(1, ids[4:])
    engine.submit(
        Work(
            key(session),
            0,
            count,
            pages=4,
            payload=memoryview(ids[: 4 * count]),
            dtype="int32",
            sample=tuple(sample),
            context=SamplingContext(
                Sampling(temperature=0, num_prompt_logprobs=2), 0, scoring=scoring
            ),
            on_done=future.set_result,
            on_failed=future.set_exception,
        )
    )
    return future


def occupy(engine: Engine, gate: Gate) -> Future[Outcome]:
    """Hold the engine inside a batch, so that what comes next waits together."""
    gate.open.clear()
    gate.entered.clear()
    busy = submit(engine, 99, [3])
    assert gate.entered.wait(10)
    return busy


def test_sessions_that_wait_together_run_together_and_equal_each_alone(engine: Engine, gate: Gate):
    alone = [generate(engine, i, prompt, 2) for i, prompt in enumerate(PROMPTS)]
    occupy(engine, gate)
    firsts = [submit(engine, 10 + i, prompt) for i, prompt in enumerate(PROMPTS)]
    gate.open.set()
    assert [token(first) for first in firsts] == [tokens[0] for tokens in alone]
    assert gate.batches[-1] == 3
    occupy(engine, gate)
    seconds = [
        submit(engine, 10 + i, alone[i][:1], position=len(prompt))
        for i, prompt in enumerate(PROMPTS)
    ]
    gate.open.set()
    assert [token(second) for second in seconds] == [tokens[1] for tokens in alone]


def test_sampled_tokens_do_not_depend_on_who_else_is_in_the_batch(engine: Engine, gate: Gate):
    hot = Sampling(temperature=1.5, seed=7)
    alone = token(submit(engine, 1, PROMPTS[0], sampling=hot))
    occupy(engine, gate)
    others = [submit(engine, 3, PROMPTS[1]), submit(engine, 4, PROMPTS[2], sample=False)]
    same = submit(engine, 2, PROMPTS[0], sampling=hot)
    gate.open.set()
    assert token(same) == alone
    assert others[1].result(10) == Outcome()


class SlowGrammars(Grammars):
    """Compiles when told to."""

    def __init__(self) -> None:
        super().__init__(load_vocabulary(BUNDLED))
        self.asked, self.may_compile = threading.Event(), threading.Event()

    def _compile(self, grammar: Grammar) -> Any:
        self.asked.set()
        assert self.may_compile.wait(10)
        return super()._compile(grammar)


@pytest.fixture
def slow(gate: Gate) -> Iterator[tuple[Engine, SlowGrammars]]:
    grammars = SlowGrammars()
    engine = Engine(gate, max_step_tokens=64, grammars=grammars)  # type: ignore[arg-type]
    engine.start()
    yield engine, grammars
    gate.open.set()
    grammars.may_compile.set()
    engine.stop()


HELD = Sampling(temperature=0, grammar=Grammar("regex", "[ab]{3}"), stop_ids=(2,))


def test_a_step_waits_for_its_grammar_and_nobody_else_does(slow: tuple[Engine, SlowGrammars]):
    engine, grammars = slow
    held = submit(engine, 1, PROMPTS[0], sampling=HELD)
    behind = submit(engine, 1, [3], position=4, sample=False)
    assert grammars.asked.wait(10)
    token(submit(engine, 2, PROMPTS[1]))
    assert engine.queued == 2
    assert not held.done()
    grammars.may_compile.set()
    said = load_vocabulary(BUNDLED).decode_bytes([token(held)])
    assert said
    assert set(said) <= set(b"ab")
    assert behind.result(10) == Outcome()


def test_a_session_freed_while_its_grammar_is_compiled_never_runs(
    slow: tuple[Engine, SlowGrammars], gate: Gate
):
    engine, grammars = slow
    held = submit(engine, 1, PROMPTS[0], sampling=HELD)
    assert grammars.asked.wait(10)
    engine.free([key(1)])
    grammars.may_compile.set()
    token(submit(engine, 2, PROMPTS[1]))
    assert not held.done()
    assert gate.batches == [1]


def test_a_grammar_that_gave_way_to_others_is_waited_for_again(
    slow: tuple[Engine, SlowGrammars], gate: Gate
):
    engine, grammars = slow
    grammars.may_compile.set()
    token(submit(engine, 1, PROMPTS[0], sampling=HELD))
    gate.open.clear()
    gate.entered.clear()
    busy = submit(engine, 2, PROMPTS[1])
    assert gate.entered.wait(10)
    waiting = submit(engine, 3, PROMPTS[0], sampling=HELD)
    grammars.may_compile.clear()
    grammars.asked.clear()
    grammars._compiled.clear()  # as other gateways' grammars do that come meanwhile
    gate.open.set()
    token(busy)
    assert grammars.asked.wait(10)
    token(submit(engine, 2, [3], position=2))
    assert not waiting.done()
    grammars.may_compile.set()
    token(waiting)


def test_a_grammar_that_cannot_be_followed_fails_its_own_step_only(
    slow: tuple[Engine, SlowGrammars],
):
    engine, grammars = slow
    grammars.may_compile.set()
    broken = Sampling(grammar=Grammar("regex", "(a"), stop_ids=(2,))
    assert reason(submit(engine, 1, PROMPTS[0], sampling=broken)) == "bad_sampling"
    token(submit(engine, 2, PROMPTS[0]))


def test_logprobs_come_with_the_tokens_of_who_asked(engine: Engine):
    asked = submit(engine, 1, PROMPTS[0], sampling=Sampling(temperature=0, num_logprobs=2))
    outcome = asked.result(10)
    (told,) = outcome.logprobs
    assert told.top_ids[0] == outcome.token_ids[0]
    assert told.top[0] == told.chosen
    assert submit(engine, 2, PROMPTS[0]).result(10).logprobs == ()


def test_two_parts_of_one_session_give_what_the_whole_gives(engine: Engine):
    (expected,) = generate(engine, 1, PROMPTS[0], 1)
    hidden = submit(engine, 2, PROMPTS[0], span=FIRST).result(10)
    assert (hidden.dtype, hidden.token_ids) == ("float32", ())
    states = torch.frombuffer(bytearray(hidden.payload), dtype=torch.float32).view(4, -1)
    assert token(submit(engine, 2, states, span=REST)) == expected


def test_what_is_wanted_in_the_cache_alone_is_not_computed_to_its_end(engine: Engine, gate: Gate):
    (expected,) = generate(engine, 1, PROMPTS[2], 1)
    num_run, pace = len(gate.batches), engine.pacer.pace
    fill = submit(engine, 2, PROMPTS[2][:-1], sample=False, goes_on=False)
    assert fill.result(10) == Outcome()
    assert (len(gate.batches), engine.pacer.pace) == (num_run, pace)
    last = len(PROMPTS[2]) - 1
    assert token(submit(engine, 2, PROMPTS[2][last:], position=last)) == expected


def test_steps_of_one_session_run_in_the_order_they_come(engine: Engine, gate: Gate):
    (expected,) = generate(engine, 1, PROMPTS[2], 1)
    occupy(engine, gate)
    chunks = [
        submit(engine, 2, PROMPTS[2][a : a + 2], position=a, sample=a == 4) for a in (0, 2, 4)
    ]
    gate.open.set()
    assert token(chunks[-1]) == expected


@pytest.mark.parametrize("token_id", [-1, 1 << 20])
def test_a_token_outside_the_vocabulary_fails_its_own_step_alone(
    engine: Engine, gate: Gate, token_id: int
):
    occupy(engine, gate)
    bad, good = submit(engine, 1, [5, token_id]), submit(engine, 2, PROMPTS[0])
    gate.open.set()
    assert reason(bad) == "bad_step"
    assert token(good) >= 0


def test_a_payload_of_another_size_fails_its_own_step_alone(engine: Engine):
    assert reason(submit(engine, 1, [5, 6], dtype="float16")) == "bad_step"
    assert token(submit(engine, 2, PROMPTS[0])) >= 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_inputs_that_are_no_numbers_fail_their_own_step_alone(
    engine: Engine, gate: Gate, model: SpanModel, value: float
):
    occupy(engine, gate)
    inputs = torch.ones(2, model.hidden_size)
    inputs[1, 3] = value
    bad = submit(engine, 1, inputs, span=REST)
    good = submit(engine, 2, torch.ones(2, model.hidden_size), span=REST)
    gate.open.set()
    assert reason(bad) == "bad_inputs"
    assert token(good) >= 0


def test_logits_that_are_no_numbers_fail_their_own_step_alone(engine: Engine, gate: Gate):
    occupy(engine, gate)
    bad = submit(engine, 1, PROMPTS[0])
    good = submit(engine, 2, PROMPTS[0])
    gate.num_garbled = 1
    gate.open.set()
    assert reason(bad) == "engine_failed"
    assert token(good) >= 0


def test_a_failed_forward_fails_its_batch_and_the_thread_goes_on(engine: Engine, gate: Gate):
    gate.failures.append(RuntimeError("out of memory"))
    assert reason(submit(engine, 1, PROMPTS[0])) == "engine_failed"
    assert token(submit(engine, 1, PROMPTS[0])) >= 0


def test_after_a_failed_step_the_next_ones_never_run_over_the_hole(engine: Engine, gate: Gate):
    occupy(engine, gate)
    first, second = submit(engine, 1, [5, 6]), submit(engine, 1, [7], position=2)
    gate.failures += [RuntimeError("the first"), RuntimeError("the one that runs now")]
    gate.open.set()
    assert reason(first) == "engine_failed"
    assert reason(second) == "engine_failed"


def test_a_failed_rewind_makes_what_lay_beyond_it_unusable(engine: Engine, gate: Gate):
    token(submit(engine, 1, PROMPTS[2]))
    gate.failures.append(RuntimeError("half done"))
    assert reason(submit(engine, 1, [5], position=2)) == "engine_failed"
    assert reason(submit(engine, 1, [5], position=3)) == "engine_failed"
    assert token(submit(engine, 1, [5], position=2)) >= 0


def test_freeing_drops_waiting_steps_and_the_cache(engine: Engine, gate: Gate):
    token(submit(engine, 1, PROMPTS[0]))
    busy = occupy(engine, gate)
    dropped, kept = submit(engine, 1, [5], position=4), submit(engine, 2, PROMPTS[1])
    engine.free([key(1)])
    assert engine.queued == 1
    gate.open.set()
    assert token(kept) >= 0
    assert token(busy) >= 0
    assert not dropped.done()
    assert reason(submit(engine, 1, [5], position=4)) == "engine_failed"
    assert token(submit(engine, 1, PROMPTS[0])) >= 0


def test_stopping_ends_the_thread_after_the_batch_it_is_in(gate: Gate):
    engine = Engine(gate, max_step_tokens=64)  # type: ignore[arg-type]
    engine.start()
    busy = occupy(engine, gate)
    never = submit(engine, 1, PROMPTS[0])
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    gate.open.set()
    stopping.join(10)
    assert not engine._thread.is_alive()
    assert busy.done()
    assert not never.done()


def test_decode_steps_are_timed(engine: Engine):
    assert engine.decode_seconds == 0
    token(submit(engine, 1, PROMPTS[0]))
    assert engine.decode_seconds == 0
    token(submit(engine, 1, [5], position=4))
    token(submit(engine, 1, [5], position=5))  # when it runs, the one before has been measured
    assert engine.decode_seconds > 0


def test_on_pages_tokens_are_the_same_and_a_full_pool_refuses_only_the_step_that_needs_it(
    gate: Gate, model: SpanModel, engine: Engine
):
    expected = [generate(engine, session, prompt, 6) for session, prompt in enumerate(PROMPTS)]
    pool = PagePool(layout_of(model), 3, torch.device("cpu"))
    paged = Engine(gate, max_step_tokens=64, cache=KvCache(pool))  # type: ignore[arg-type]
    paged.start()
    try:
        found = [generate(paged, session, prompt, 6) for session, prompt in enumerate(PROMPTS)]
        assert (found, pool.num_free) == (expected, 0)
        gate.open.clear()
        waiting = [submit(paged, 0, [7], position=1), submit(paged, 8, [5])]
        gate.open.set()
        assert reason(waiting[1]) == "no_pages"
        token(waiting[0])
        paged.free([key(0), key(8)])
        token(submit(paged, 9, [5]))
    finally:
        paged.stop()


def test_scores_and_samples_of_a_batch_each_come_from_their_own_rows(
    engine: Engine, gate: Gate, model: SpanModel
):
    prompt = PROMPTS[2]
    (expected,) = generate(engine, 1, prompt, 1)
    alone = scored(engine, 2, [*prompt, expected], count=len(prompt)).result(10)
    plain = [generate(engine, 20 + i, other, 1) for i, other in enumerate(PROMPTS[:2])]
    occupy(engine, gate)
    before, both, after = (
        submit(engine, 3, PROMPTS[0]),
        scored(engine, 4, [*prompt, expected], count=len(prompt), sample=[len(prompt) - 1]),
        submit(engine, 5, PROMPTS[1]),
    )
    gate.open.set()
    assert [[token(before)], [token(after)]] == plain
    outcome = both.result(10)
    assert gate.batches[-1] == 3
    assert outcome.token_ids == (expected,)
    assert (alone.token_ids, len(alone.scores)) == ((), len(prompt))
    assert [told.rank for told in outcome.scores] == [told.rank for told in alone.scores]
    assert [told.top_ids for told in outcome.scores] == [told.top_ids for told in alone.scores]
    assert (alone.scores[-1].rank, alone.scores[-1].top_ids[0]) == (1, expected)


def test_scores_before_the_last_block_are_refused(engine: Engine):
    future: Future[Outcome] = Future()
    scoring = SamplingContext(Sampling(), scoring=Scoring(1, bytes(4)))
    payload = memoryview(to_payload(torch.tensor([5], dtype=torch.int32)))
    engine.submit(
        Work(
            key(1, FIRST), 0, 1, 4, payload, "int32", (), scoring,
            on_done=future.set_result, on_failed=future.set_exception,
        )
    )  # fmt: skip
    assert reason(future) == "bad_step"


def test_to_free_nothing_wakes_nobody(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    woken: list[str] = []
    monkeypatch.setattr(engine._condition, "notify", lambda: woken.append("engine"))
    engine.free([])
    engine.keep([])
    assert woken == []
    engine.free([key(1)])
    assert woken == ["engine"]
    monkeypatch.undo()
