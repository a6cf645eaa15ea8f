"""What is read of a text is whole, in order, and each row is there once."""

import struct

import pytest

from gateway.reader import Reader, tells
from shared.errors import GenerationFailed
from shared.swarm import ModelSpec, Span
from shared.wire.messages import ModelDtype, Reading, States

SPEC = ModelSpec("toy", "r1", 8, hidden_size=1, vocab_size=3, max_positions=64)
ASKED = Reading("states", (1, 2, 5, 9), (0, 3))


def states(block: int, *positions: int, width: int = 1, dtype: ModelDtype = "float32") -> States:
    return States(bytes(16), 1, block, positions, dtype, width)


def take(reader: Reader, block: int, *positions: int, dtype: ModelDtype = "float32") -> bool:
    """Rows that hold their own positions."""
    told = states(block, *positions, dtype=dtype)
    form = f"<{len(positions)}{'f' if dtype == 'float32' else 'e'}"
    return reader.take(told, memoryview(struct.pack(form, *positions)))


def rows(reader: Reader, block: int) -> list[float]:
    data = b"".join(reader.rows[block].parts)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


@pytest.mark.parametrize(
    ("reading", "span"),
    [
        (ASKED, Span(0, 3)),
        (Reading("states", (1,), (0,)), Span(0, 1)),
        (Reading("logits", (1,)), Span(0, 8)),
        (Reading("mean", (1,)), Span(0, 8)),
    ],
)
def test_no_more_blocks_run_than_are_asked_for(reading: Reading, span: Span):
    assert Reader(reading, SPEC).span == span


def test_a_step_is_asked_for_its_own_positions():
    reader = Reader(ASKED, SPEC)
    assert reader.part(0, 2) == Reading("states", (1,), (0, 3))
    assert reader.part(2, 9) == Reading("states", (2, 5), (0, 3))
    assert reader.part(6, 9) is None


def test_a_mean_is_asked_for_in_every_step_and_told_at_the_end():
    reader = Reader(Reading("mean", (9,), dimensions=2), SPEC)
    assert reader.part(0, 5) == Reading("mean", (), dimensions=2)
    assert reader.part(5, 10) == Reading("mean", (9,), dimensions=2)


def test_it_is_complete_when_every_block_has_told_every_position():
    reader = Reader(ASKED, SPEC)
    assert [take(reader, 0, 1, 2, 5, 9), reader.is_complete, reader.reached] == [True, False, 0]
    assert [take(reader, 3, 1, 2), reader.is_complete, reader.reached] == [True, False, 3]
    assert [take(reader, 3, 5, 9), reader.is_complete, reader.reached] == [True, True, 10]
    assert rows(reader, 0) == rows(reader, 3) == [1, 2, 5, 9]


def test_what_is_told_again_is_left_aside_and_what_is_new_in_it_kept():
    reader = Reader(ASKED, SPEC)
    assert take(reader, 3, 1, 2)
    assert not take(reader, 3, 1, 2)
    assert not take(reader, 3, 2)
    assert take(reader, 3, 2, 5)
    assert rows(reader, 3) == [1, 2, 5]


def test_what_would_leave_a_hole_is_not_kept():
    reader = Reader(ASKED, SPEC)
    assert not take(reader, 3, 5, 9)
    assert rows(reader, 3) == []


def test_a_hop_owes_what_its_span_has_not_told():
    reader = Reader(ASKED, SPEC)
    spans = [Span(0, 2), Span(2, 4), Span(4, 8)]
    assert [reader.owes(span) for span in spans] == [True, True, False]
    take(reader, 0, 1, 2, 5, 9)
    assert [reader.owes(span) for span in spans] == [False, True, False]


@pytest.mark.parametrize(
    ("told", "num_bytes"),
    [
        (states(2, 1), 4),
        (states(3, 1, 5), 8),
        (states(3, 3), 4),
        (states(3, 1, width=2), 8),
        (states(3, 1), 8),
        (states(3, 1, dtype="float16"), 4),
    ],
    ids=["another block", "a gap", "another position", "too wide", "too long", "another dtype"],
)
def test_what_was_not_asked_for_does_not_fit(told: States, num_bytes: int):
    assert Reader(ASKED, SPEC).fits(states(3, 1, 2), 8)
    assert not Reader(ASKED, SPEC).fits(told, num_bytes)


@pytest.mark.parametrize(
    ("reading", "width"),
    [
        (Reading("logits", (1,)), 3),
        (Reading("mean", (1,)), 1),
        (Reading("mean", (1,), dimensions=5), 5),
    ],
)
def test_logits_and_means_have_a_width_of_their_own(reading: Reading, width: int):
    reader = Reader(reading, SPEC)
    assert reader.fits(states(8, 1, width=width), 4 * width)
    assert not reader.fits(states(8, 1, width=7), 28)


def test_one_tensor_has_one_dtype():
    reader = Reader(ASKED, SPEC)
    take(reader, 0, 1)
    take(reader, 3, 1, dtype="float16")
    with pytest.raises(GenerationFailed, match="float32 and in float16") as caught:
        take(reader, 0, 2, dtype="float16")
    assert caught.value.reason == "mixed_dtypes"


def test_the_block_after_a_span_is_told_and_its_first_only_at_the_beginning():
    assert [block for block in range(9) if tells(Span(0, 2), block)] == [0, 1, 2]
    assert [block for block in range(9) if tells(Span(2, 4), block)] == [3, 4]
