"""What of a reading is a worker's to tell, and which rows of a batch that takes."""

from dataclasses import dataclass

import msgspec
import pytest
import torch

from shared.errors import StepRefused
from shared.swarm import Hop, PeerId, Span
from shared.wire.messages import MAX_READ_BYTES, Reading, Step
from worker.pooling import RunningSum, added, check_continues
from worker.reading import check, part_of_reading, tap_of, tapped, told
from worker.steps import pieces

NUM_BLOCKS = 8
STATES = Reading("states", (10, 12), (0, 4, 8))


@dataclass(frozen=True)
class Item:
    """A step of a batch."""

    position: int
    count: int
    read: Reading | None = None


def step(read: Reading, *, end: int = NUM_BLOCKS, sample: tuple[int, ...] = ()) -> Step:
    hops = (Hop(PeerId("ann"), Span(0, end)),)
    return Step(bytes(16), 1, PeerId("g"), 10, 3, hops, "int32", sample, read=read)


def test_each_hop_tells_of_the_blocks_that_follow_its_own():
    spans = [Span(0, 4), Span(4, 5), Span(5, 8)]
    assert [told(STATES, span) for span in spans] == [[0, 4], [], [8]]


def test_the_rows_of_a_batch_are_counted_through_its_steps():
    works = [Item(3, 1), Item(10, 3, STATES), Item(0, 2, Reading("mean")), Item(5, 1)]
    assert tap_of(works, Span(0, 4), NUM_BLOCKS) == {0: [1, 3], 4: [1, 3]}
    assert tap_of(works, Span(4, 8), NUM_BLOCKS) == {8: [1, 3, 4, 5]}
    assert tap_of(works[:1], Span(4, 8), NUM_BLOCKS) == {}


def test_logits_are_no_states():
    assert tapped(Item(10, 3, Reading("logits", (11,))), Span(0, 8), NUM_BLOCKS) == {}


def test_a_piece_of_a_step_is_asked_for_what_lies_in_it():
    cut = [piece.read for piece, _ in pieces(step(STATES), memoryview(bytes(12)), 2)]
    assert cut == [
        msgspec.structs.replace(STATES, positions=(10,)),
        msgspec.structs.replace(STATES, positions=(12,)),
    ]
    assert part_of_reading(STATES, 11, 12) is None
    assert part_of_reading(Reading("mean", (12,)), 10, 12) == Reading("mean")


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (step(STATES, sample=(12,)), "sample"),
        (step(Reading("states", (9,), (1,))), "outside"),
        (step(Reading("states", (13,), (1,))), "outside"),
        (step(Reading("states", (12, 10), (1,))), "order"),
        (step(Reading("states", (10, 10), (1,))), "order"),
        (step(Reading("states", (10,), (2, 1))), "order"),
        (step(Reading("states", (10,), (9,))), "beyond block 8"),
        (step(Reading("logits", (10,)), end=4), "logits before the last block"),
        (step(Reading("mean", (12,)), end=4), "mean before the last block"),
        (step(Reading("mean", (11,))), "does not end with the step"),
        (step(Reading("mean", (12,), dimensions=65)), "65 of 64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_reading_that_makes_no_sense_is_refused(asked: Step, why: str):
    with pytest.raises(StepRefused, match=why):
        check(asked, NUM_BLOCKS, 64)


@pytest.mark.parametrize(
    "read", [STATES, Reading("logits", (12,)), Reading("mean"), Reading("mean", (12,), (), 64)]
)
def test_others_are_not(read: Reading):
    check(step(read), NUM_BLOCKS, 64)


def test_a_step_brings_no_more_bytes_than_it_may():
    at_once = STATES.rows_at_once(4096, 1)
    assert at_once * 3 * 4096 * 4 <= MAX_READ_BYTES < (at_once + 1) * 3 * 4096 * 4
    assert Reading("logits", (1,)).rows_at_once(1, 1 << 30) == 1
    assert Reading("mean", (1,)).rows_at_once(4096, 1) == MAX_READ_BYTES // 4096 // 4


def test_a_sum_does_not_depend_on_where_it_was_cut():
    states = torch.randn(40, 16, generator=torch.manual_seed(0))
    whole = added(None, 0, states)
    parts = None
    for start in range(0, 40, 7):
        parts = added(parts, start, states[start : start + 7])
    assert parts is not None
    assert (parts.end, whole.end) == (40, 40)
    assert torch.equal(parts.total, whole.total)
    torch.testing.assert_close(whole.total / 40, states.double().mean(0))


def test_a_sum_begins_anew_at_0_and_has_no_gaps():
    before = RunningSum(4, torch.ones(2).double())
    assert added(before, 0, torch.zeros(1, 2)).end == 1
    for position, sums in ((4, None), (3, before), (5, before)):
        with pytest.raises(StepRefused) as caught:
            check_continues(sums, position)
        assert (caught.value.reason, caught.value.cached) == ("position_gap", 0)


def test_a_mean_is_cut_and_then_of_length_1():
    total = RunningSum(2, torch.tensor([6.0, 8.0, 1.0]).double())
    assert total.mean(2)[0].tolist() == pytest.approx([0.6, 0.8])
    assert total.mean(0).norm().item() == pytest.approx(1)
    assert total.mean(0).dtype == torch.float32


def test_a_mean_of_nothing_but_zeros_is_no_nan():
    assert RunningSum(2, torch.zeros(2).double()).mean(0).tolist() == [[0, 0]]
