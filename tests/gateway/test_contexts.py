"""Each step tells the last hop as much of the text as its sampling reads, and no more."""

import msgspec
import pytest

from gateway.contexts import Contexts
from shared.errors import GenerationFailed
from shared.wire.codec import pack_ids
from shared.wire.messages import (
    Grammar,
    Sampling,
    SamplingContext,
    Scores,
    Scoring,
    TokenLogprobs,
    Tokens,
)

PROMPT = (7, 5, 7)


def told(sampling: Sampling, *generated: int, guesses: tuple[int, ...] = ()) -> SamplingContext:
    context = Contexts(sampling, PROMPT).context([*PROMPT, *generated], guesses)
    return msgspec.msgpack.decode(context, type=SamplingContext)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(seed=4), Sampling(logit_bias=((1, 2.0),), min_tokens=5, stop_ids=(9,))],
)
def test_a_choice_that_reads_no_text_is_told_where_the_answer_begins(sampling: Sampling):
    assert told(sampling, 1, 2) == SamplingContext(sampling, 3)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(presence_penalty=1),
        Sampling(frequency_penalty=-1),
        Sampling(grammar=Grammar("regex", "a")),
    ],
)
def test_penalties_and_grammars_are_told_the_answer_so_far_and_the_guesses(sampling: Sampling):
    expected = SamplingContext(sampling, 3, pack_ids([1, 2, 8, 9]))
    assert told(sampling, 1, 2, guesses=(8, 9)) == expected


def test_the_repetition_penalty_is_told_the_prompt_s_distinct_tokens_too():
    sampling = Sampling(repetition_penalty=1.1)
    assert told(sampling, 1) == SamplingContext(sampling, 3, pack_ids([1]), pack_ids([5, 7]))


def test_a_step_that_scores_is_told_the_tokens_that_follow_its_inputs():
    sampling = Sampling(num_prompt_logprobs=2)
    context = Contexts(sampling, PROMPT).context([*PROMPT, 9], (), range(1, 3))
    assert msgspec.msgpack.decode(context, type=SamplingContext) == SamplingContext(
        sampling, 3, scoring=Scoring(1, pack_ids([5, 7]))
    )


def test_a_text_too_long_to_send_along_ends_the_answer_honestly():
    contexts = Contexts(Sampling(presence_penalty=1), ())
    with pytest.raises(GenerationFailed, match="300000 tokens") as caught:
        contexts.context([1] * 300_000, ())
    assert caught.value.reason == "answer_too_long"


LIKELY = TokenLogprobs(-0.5, (9,), (-0.5,))


def is_answered(num_logprobs: int | None, *logprobs: TokenLogprobs, token_id: int = 5) -> bool:
    answer = Tokens(bytes(16), 1, 3, (token_id,), logprobs)
    return Contexts(Sampling(num_logprobs=num_logprobs), ()).is_answered(answer, 100)


def test_an_answer_has_the_logprobs_that_were_asked_for():
    assert is_answered(None)
    assert is_answered(0, TokenLogprobs(-1.0))
    assert is_answered(1, LIKELY)
    assert is_answered(2, LIKELY)


@pytest.mark.parametrize(
    "logprobs",
    [
        (),
        (LIKELY, LIKELY),
        (TokenLogprobs(-0.5, (9,), ()),),
        (TokenLogprobs(-0.5, (9, 8), (-1.0, -1.0)),),
        (TokenLogprobs(-0.5, (100,), (-1.0,)),),
        (TokenLogprobs(float("nan")),),
    ],
    ids=["none", "too many", "uneven", "more than asked", "unknown token", "no number"],
)
def test_other_logprobs_are_no_answer(logprobs: tuple[TokenLogprobs, ...]):
    assert not is_answered(1, *logprobs)


def is_scored(num_prompt_logprobs: int | None, *logprobs: TokenLogprobs) -> bool:
    answer = Scores(bytes(16), 1, 3, logprobs)
    return Contexts(Sampling(num_prompt_logprobs=num_prompt_logprobs), ()).is_scored(answer, 100)


def test_scores_have_a_rank_and_the_alternatives_that_were_asked_for():
    assert is_scored(0, TokenLogprobs(-1.0, rank=1), TokenLogprobs(-1.0, rank=100))
    assert is_scored(1, TokenLogprobs(-1.0, (9,), (-0.5,), rank=2))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (None, TokenLogprobs(-1.0, rank=1)),
        (0, TokenLogprobs(-1.0)),
        (0, TokenLogprobs(-1.0, rank=101)),
        (0, TokenLogprobs(float("nan"), rank=1)),
        (0, TokenLogprobs(-1.0, (9,), (-0.5,), rank=2)),
        (1, TokenLogprobs(-1.0, (100,), (-0.5,), rank=2)),
    ],
    ids=["unasked", "no rank", "rank too high", "no number", "more than asked", "unknown token"],
)
def test_other_scores_are_no_answer(asked: int | None, told: TokenLogprobs):
    assert not is_scored(asked, told)


def test_a_token_outside_the_vocabulary_or_unasked_logprobs_are_no_answer():
    assert not is_answered(None, token_id=100)
    assert not is_answered(None, LIKELY)
