"""The states that are tapped of a forward are transformers' own, in every kind of family."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from shared.swarm import Span
from tests.models import NUM_BLOCKS, build
from worker.families import Verdict
from worker.kv_cache import Segment, Slab
from worker.span_model import SpanModel

IDS = [(7 * i) % 300 + 10 for i in range(40)]
WHOLE = Span(0, NUM_BLOCKS)
ALONE = (Verdict("alone", continues=True), Verdict("alone", continues=False))


@torch.inference_mode()
def states_of(model: PreTrainedModel) -> Sequence[Tensor]:
    out = model(torch.tensor([IDS]), output_hidden_states=True)
    return [states[0] for states in out.hidden_states]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_states_are_those_of_transformers(family: str):
    expected = states_of(build(family))
    model = SpanModel(build(family), WHOLE)
    tap = {block: list(range(40)) for block in range(NUM_BLOCKS + 1)}
    ids = torch.tensor(IDS)
    for keep in ([], [39]):
        _, states = model.run_tapped(ids, [Segment(Slab(64), 0, 40)], WHOLE, keep, tap)
        assert list(states) == list(tap)
        for block, rows in states.items():
            close(rows, expected[block])


@pytest.mark.parametrize("verdict", ALONE, ids=str)
def test_sessions_that_run_alone_are_tapped_in_all_their_forwards(verdict: Verdict):
    expected = states_of(build("llama"))
    model = SpanModel(build("llama"), WHOLE, verdict)
    cache = Slab(64)
    first, rest = torch.tensor(IDS[:30]), torch.tensor(IDS[30:])
    tap = {0: [1, 29], 3: [29], NUM_BLOCKS: [0, 7]}
    _, states = model.run_tapped(first, [Segment(cache, 0, 30)], WHOLE, [], tap)
    close(states[3], expected[3][[29]])
    tap = {0: [0, 9], 3: [4, 5], NUM_BLOCKS: [9]}
    _, states = model.run_tapped(rest, [Segment(cache, 30, 10)], WHOLE, [9], tap)
    close(states[0], expected[0][[30, 39]])
    close(states[3], expected[3][[34, 35]])
    close(states[NUM_BLOCKS], expected[NUM_BLOCKS][[39]])


def test_a_tap_is_closed_behind_a_forward_and_behind_one_that_failed():
    model = SpanModel(build("llama"), WHOLE)
    tap = {0: [0], 2: [0], NUM_BLOCKS: [0]}
    model.run_tapped(torch.tensor(IDS), [Segment(Slab(64), 0, 40)], WHOLE, [], tap)
    beyond = tap | {2: [99]}
    with pytest.raises(IndexError):
        model.run_tapped(torch.tensor(IDS), [Segment(Slab(64), 0, 40)], WHOLE, [], beyond)
    model.run(torch.tensor(IDS), [Segment(Slab(64), 0, 40)], WHOLE, [])
    assert model._taps.take() == {}
