"""A choice depends on logits, parameters, seed and position, and on nothing else."""

import math

import pytest
import torch
from torch import Tensor
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from shared.wire.messages import LEAST_LOGPROB, Sampling
from worker.sampling import CANDIDATES, gumbel, logprobs, sample

DRAWS = 4000
GOLDEN = [-0.5564628189818723, -0.24525451495597905, 2.5534934037205987]


def logits(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def counts(row: list[float], params: Sampling) -> Tensor:
    """How often each token is drawn over many positions."""
    ids = sample(torch.tensor([row] * DRAWS), [params] * DRAWS, range(DRAWS))
    return torch.bincount(torch.tensor(ids), minlength=len(row))


def chi_square(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("params", [Sampling(temperature=0, seed=3), Sampling(top_p=0, seed=3)])
def test_a_temperature_or_nucleus_of_zero_takes_the_likeliest(params: Sampling):
    assert sample(logits([1, 3, 2], [5, 4, 0]), [params] * 2, [0, 1]) == [1, 0]


@pytest.mark.parametrize("temperature", [1e-40, 1e-6])
def test_a_temperature_near_zero_is_all_but_greedy(temperature: float):
    assert sample(logits([1, 3, 2], [-5, -9, -7]), [Sampling(temperature)] * 2, [0, 1]) == [1, 0]


def test_of_equal_logits_greedy_takes_the_same_one_in_any_batch():
    """In bfloat16 ties are common."""
    row = [0.0] * 300
    row[7] = row[123] = row[250] = 2.0
    greedy = Sampling(temperature=0)
    assert sample(logits(row), [greedy], [0]) == [7]
    assert sample(logits(row, row), [greedy, Sampling(seed=1)], [0, 1])[0] == 7


def test_the_same_seed_and_position_give_the_same_token_in_any_batch_and_order():
    torch.manual_seed(0)
    rows = torch.randn(8, 1000) * 2
    params = [Sampling(t, p, seed) for seed, (t, p) in enumerate([(1.0, 1.0), (0.7, 0.9)] * 4)]
    params[5] = Sampling(temperature=0)
    alone = [sample(rows[i : i + 1], [params[i]], [40 + i])[0] for i in range(8)]
    order = [3, 5, 0, 7, 1, 2, 6, 4]
    mixed = sample(rows[order], [params[i] for i in order], [40 + i for i in order])
    assert mixed == [alone[i] for i in order]


def test_another_seed_or_another_position_draws_anew():
    flat = torch.zeros(200, 50)
    by_position = sample(flat, [Sampling(seed=1)] * 200, range(200))
    by_seed = sample(flat, [Sampling(seed=n) for n in range(200)], [1] * 200)
    assert len(set(by_position)) > 40
    assert len(set(by_seed)) > 40


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_follow_the_softmax(temperature: float):
    row = [2.0, 1.0, 0.5, 0.0, -1.0]
    expected = torch.softmax(torch.tensor(row) / temperature, 0) * DRAWS
    found = counts(row, Sampling(temperature, seed=11))
    assert chi_square(found, expected) < 18.5  # one in a thousand, with 4 degrees of freedom


def test_draws_of_a_nucleus_follow_the_softmax_of_its_tokens_alone():
    row = torch.tensor([0.05, 0.5, 0.1, 0.3, 0.05]).log().tolist()
    found = counts(row, Sampling(top_p=0.75, seed=5))
    assert found[[0, 2, 4]].sum() == 0  # 0.5 and 0.3 fill it
    assert chi_square(found[[1, 3]], torch.tensor([0.625, 0.375]) * DRAWS) < 10.8


def test_the_likeliest_token_stays_in_the_smallest_nucleus():
    assert counts([0.0, 0.1, 0.0], Sampling(top_p=1e-6)).tolist() == [0, DRAWS, 0]


def test_of_a_large_vocabulary_the_likeliest_are_considered():
    row = torch.zeros(2 * CANDIDATES)
    row[CANDIDATES:] = 1.0
    ids = sample(row.expand(DRAWS, -1), [Sampling(2.0)] * DRAWS, range(DRAWS))
    assert min(ids) >= CANDIDATES


@pytest.mark.parametrize("top_k", [0, 3, 1000])
@pytest.mark.parametrize("top_p", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.3])
def test_what_is_left_to_draw_from_is_what_transformers_leaves(
    top_k: int, top_p: float, min_p: float
):
    torch.manual_seed(top_k)
    row = torch.randn(1, 12)
    left = row if not top_k else TopKLogitsWarper(top_k)(None, row)
    left = TopPLogitsWarper(top_p)(None, left) if top_p < 1 else left
    left = MinPLogitsWarper(min_p)(None, left) if min_p else left
    found = counts(row[0].tolist(), Sampling(1.0, top_p, 7, top_k, min_p))
    expected = left.softmax(-1)[0]
    assert set(found.nonzero()[:, 0].tolist()) <= set(expected.nonzero()[:, 0].tolist())
    likely = expected > 0.002
    assert (found[likely] > 0).all()
    assert found / DRAWS == pytest.approx(expected.numpy(), abs=0.04)


def test_a_row_that_asks_for_nothing_is_drawn_alike_beside_rows_that_do():
    torch.manual_seed(1)
    rows = torch.randn(4, 500)
    others = [Sampling(0.7, 0.9, 1, 5), Sampling(1.3, 1.0, 2, 0, 0.2), Sampling(top_k=1)]
    mine = [Sampling(0.9, 0.8, seed=9)]
    alone = sample(rows[3:], mine, [70])
    assert sample(rows, others + mine, [70] * 4)[3:] == alone


def test_a_top_k_of_one_takes_the_likeliest():
    assert sample(logits([1, 3, 2]), [Sampling(2.0, top_k=1)], [0]) == [1]


def test_a_forbidden_token_is_never_drawn():
    row = [0.0, -math.inf, 0.0, -math.inf]
    assert counts(row, Sampling(2.0, seed=1))[[1, 3]].sum() == 0


def test_logprobs_are_the_model_s_own_with_the_likeliest_beside_them():
    row = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    (told,) = logprobs(row[None], [2], [2])
    assert told.chosen == pytest.approx(math.log(0.15), abs=1e-6)
    assert told.top_ids == (0, 1)
    assert told.top == pytest.approx((math.log(0.5), math.log(0.3)), abs=1e-6)


def test_logprobs_are_bounded_and_as_many_as_asked():
    rows = logits([100.0, -math.inf, 0.0], [100.0, -math.inf, 0.0])
    none, three = logprobs(rows, [0, 1], [0, 3])
    assert (none.chosen, none.top, none.top_ids) == (0.0, (), ())
    assert three.chosen == LEAST_LOGPROB
    assert three.top == (0.0, -100.0, LEAST_LOGPROB)
    assert len(logprobs(rows, [0, 0], [20, 0])[0].top) == 3  # no more than the vocabulary holds


def test_half_precision_logits_are_taken():
    assert sample(logits([1, 3, 2]).bfloat16(), [Sampling(top_p=0)], [0]) == [1]


def test_the_noise_is_standard_gumbel():
    noise = gumbel(torch.tensor([1, 2]), torch.tensor([0, 0]), torch.arange(50_000).expand(2, -1))
    assert noise.dtype == torch.float64
    assert noise.isfinite().all()
    for row in noise:
        assert row.mean().item() == pytest.approx(0.5772, abs=0.02)
        assert row.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.02)
    assert abs(torch.corrcoef(noise)[0, 1].item()) < 0.02


@pytest.mark.parametrize("seed", [-(1 << 63), -1, 0, (1 << 63) - 1])
def test_every_seed_the_wire_allows_works(seed: int):
    (one,) = sample(torch.zeros(1, 9), [Sampling(seed=seed)], [1 << 24])
    assert 0 <= one < 9


def test_the_noise_is_the_same_for_ever():
    """Replacement workers of another version must draw the same tokens."""
    found = gumbel(torch.tensor([42]), torch.tensor([7]), torch.tensor([[0, 1, 31_999]]))
    assert found[0].tolist() == pytest.approx(GOLDEN, abs=1e-12)
