"""What a context asks for bends its own rows of logits, by the documented formulas."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from shared.errors import StepRefused
from shared.wire.codec import pack_ids
from shared.wire.messages import Grammar, Sampling, SamplingContext
from worker.wants import Want, bent, wants_of

VOCABULARY = 10
LOGITS = torch.tensor([[2.0, -1.0, 0.5, 3.0, -2.0, 0.0, 1.0, -0.5, 4.0, -3.0]])


def wants(
    sampling: Sampling,
    *generated: int,
    prompt: tuple[int, ...] = (),
    sample: tuple[int, ...] | None = None,
    start: int = 5,
) -> list[Want]:
    """For a step that samples after the last of the tokens, or after the positions told."""
    context = SamplingContext(sampling, start, pack_ids(generated), pack_ids(prompt))
    return wants_of(context, sample or (start + len(generated) - 1,), None, VOCABULARY)


def bend(sampling: Sampling, *generated: int, prompt: tuple[int, ...] = ()) -> Tensor:
    return bent(LOGITS, wants(sampling, *generated, prompt=prompt))[0]


def refusal(sampling: Sampling, **changes: object) -> str:
    fields: dict[str, object] = {"start": 5, "generated": pack_ids([1, 2])} | changes
    with pytest.raises(StepRefused) as caught:
        wants_of(SamplingContext(sampling, **fields), (6,), None, VOCABULARY)  # type: ignore[arg-type]
    return caught.value.reason


def test_a_plain_request_leaves_the_logits_as_they_are():
    assert bent(LOGITS, wants(Sampling(0.7, 0.9, top_k=4, min_p=0.1, num_logprobs=2))) is LOGITS


def test_frequency_counts_each_occurrence_and_presence_only_whether():
    found = bend(Sampling(presence_penalty=0.5, frequency_penalty=0.25), 3, 8, 3, 3)
    expected = LOGITS[0].clone()
    expected[3] -= 3 * 0.25 + 0.5
    expected[8] -= 0.25 + 0.5
    assert found.tolist() == pytest.approx(expected.tolist())


def test_presence_and_frequency_do_not_look_at_the_prompt():
    assert bend(Sampling(presence_penalty=2), prompt=(3, 8)).equal(LOGITS[0])


def test_repetition_is_penalised_as_transformers_does_it_over_prompt_and_answer():
    prompt, generated = (0, 1, 4), (3, 3, 9)
    found = bend(Sampling(repetition_penalty=1.3), *generated, prompt=prompt)
    seen = torch.tensor([[*prompt, *generated]])
    assert found.equal(RepetitionPenaltyLogitsProcessor(1.3)(seen, LOGITS.clone())[0])


def test_biases_are_added_last():
    found = bend(Sampling(repetition_penalty=2, logit_bias=((1, 100.0), (0, -1.5))), 0, 1)
    assert found[:3].tolist() == [2.0 / 2 - 1.5, -1.0 * 2 + 100, 0.5]


def test_stop_ids_are_banned_until_there_are_enough_tokens():
    sampling = Sampling(min_tokens=2, stop_ids=(8, 3, 99))
    for generated, is_banned in (((), True), ((5,), True), ((5, 5), False)):
        found = bend(sampling, *generated)
        assert found[[8, 3]].isinf().tolist() == [is_banned] * 2
        assert found[0] == LOGITS[0, 0]


def test_each_of_a_step_s_samples_sees_the_tokens_before_it():
    sampling = Sampling(frequency_penalty=1, min_tokens=1, stop_ids=(2,))
    of_step = wants(sampling, 7, 7, sample=(4, 5, 6))
    assert [want.generated.tolist() for want in of_step] == [[], [7], [7, 7]]
    assert [want.banned.tolist() for want in of_step] == [[2], [], []]
    assert bent(LOGITS.expand(3, -1), of_step)[:, 7].tolist() == [-0.5, -1.5, -2.5]


def test_each_row_is_bent_by_its_own_want_only():
    mixed = [
        *wants(Sampling()),
        *wants(Sampling(presence_penalty=1), 3),
        *wants(Sampling(repetition_penalty=1.5), 3, prompt=(0,)),
        *wants(Sampling(logit_bias=((3, 5.0),), frequency_penalty=-1), 3, 3),
        *wants(Sampling(min_tokens=9, stop_ids=(3,))),
        Want(Sampling(), 5, allowed=np.arange(VOCABULARY) == 3),
    ]
    together = bent(LOGITS.expand(len(mixed), -1), mixed)
    assert together[0].equal(LOGITS[0])
    for row, want in zip(together, mixed, strict=True):
        assert row.equal(bent(LOGITS, [want])[0])
    assert together[5].isfinite().nonzero().tolist() == [[3]]


def test_half_precision_logits_are_bent_in_full_precision():
    bend_half = bent(LOGITS.bfloat16(), wants(Sampling(frequency_penalty=0.001), 8))
    assert bend_half.dtype == torch.float32
    assert bend_half[0, 8].item() == pytest.approx(3.999)


def test_a_context_that_makes_no_sense_is_refused():
    penalised = Sampling(presence_penalty=1)
    assert refusal(penalised, generated=b"") == "bad_step"  # too few tokens
    assert refusal(penalised, start=8) == "bad_step"  # samples inside the prompt
    assert refusal(penalised, generated=b"123") == "bad_step"
    assert refusal(penalised, generated=pack_ids([1, VOCABULARY])) == "bad_step"
    assert refusal(penalised, generated=pack_ids([1, -1])) == "bad_step"
    assert refusal(Sampling(repetition_penalty=2), prompt=pack_ids([99])) == "bad_step"
    assert refusal(Sampling(logit_bias=((VOCABULARY, 1.0),))) == "bad_step"


def test_without_a_tokenizer_grammars_are_refused_by_name():
    assert refusal(Sampling(grammar=Grammar("regex", "a"))) == "no_grammars"
