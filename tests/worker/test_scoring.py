"""Which tokens a step scores, and how likely each of them is said to be."""

import pytest
import torch

from shared.errors import StepRefused
from shared.wire.codec import pack_ids
from shared.wire.messages import Sampling, SamplingContext, Scoring, TokenLogprobs
from worker.scoring import followers, rows_wanted, score

VOCABULARY = 300


def context(position: int, *token_ids: int) -> SamplingContext:
    return SamplingContext(Sampling(), scoring=Scoring(position, pack_ids(token_ids)))


def test_each_input_scores_the_token_after_it_as_far_as_that_is_named():
    asked = context(5, 10, 11, 12)  # of a step at 4, which may come in pieces
    assert followers(asked, 4, 2, VOCABULARY) == [10, 11]
    assert followers(asked, 6, 2, VOCABULARY) == [12]
    assert followers(asked, 8, 2, VOCABULARY) == []
    assert followers(SamplingContext(Sampling()), 4, 2, VOCABULARY) == []


@pytest.mark.parametrize(
    "asked",
    [
        context(6, 10),
        context(5, VOCABULARY),
        SamplingContext(Sampling(), scoring=Scoring(5, b"12345")),
    ],
    ids=["not of the first input", "a token beyond the vocabulary", "half an id"],
)
def test_scores_that_make_no_sense_are_refused(asked: SamplingContext):
    with pytest.raises(StepRefused) as caught:
        followers(asked, 4, 2, VOCABULARY)
    assert caught.value.reason == "bad_step"


def test_a_row_that_is_scored_and_sampled_is_wanted_once():
    assert rows_wanted(7, (9, 10), 3) == [0, 1, 2, 3]
    assert rows_wanted(7, (9,), 0) == [2]
    assert rows_wanted(7, (), 2) == [0, 1]


def test_the_rank_counts_the_likelier_tokens():
    rows = torch.tensor([[1.0, 3.0, 2.0, 3.0]] * 3)
    log_p = rows[0].log_softmax(-1).tolist()
    likely, unlikely, alone = score(rows, [3, 0, 2], 2)
    assert likely.chosen == pytest.approx(log_p[3])
    assert (likely.rank, unlikely.rank, alone.rank) == (1, 4, 3)
    assert set(unlikely.top_ids) == {1, 3}
    assert unlikely.top == pytest.approx(log_p[1:4:2])
    assert score(rows[:1], [0], 0) == (TokenLogprobs(unlikely.chosen, rank=4),)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_score_nothing(value: float):
    with pytest.raises(StepRefused, match="finite"):
        score(torch.tensor([[1.0, 2.0], [1.0, value]]), [0, 0], 1)
