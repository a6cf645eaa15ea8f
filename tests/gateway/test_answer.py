from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.answer import Answer
from shared.errors import GenerationFailed
from tests.fakes import END, chat_text, tokens_of

TEXT = chat_text()


def answer(*, stops: tuple[str, ...] = (), max_tokens: int = 100) -> Answer:
    return Answer(
        TEXT.decoder(),
        stops=stops,
        stop_ids=TEXT.stop_ids,
        max_tokens=max_tokens,
        num_prompt_tokens=3,
    )


def test_a_stop_id_ends_it_is_counted_and_not_shown():
    a = answer()
    assert a.feed(tokens_of(f"hi{END}more")) == "hi"
    assert (a.finish_reason, a.usage["completion_tokens"], a.usage["total_tokens"]) == (
        "stop",
        3,
        6,
    )


def test_the_budget_ends_it_at_exactly_so_many_tokens():
    a = answer(max_tokens=2)
    assert a.feed(tokens_of("hello")) == "he"
    assert (a.finish_reason, a.usage["completion_tokens"]) == ("length", 2)


def test_a_stop_id_as_the_last_of_the_budget_is_a_stop():
    a = answer(max_tokens=3)
    assert a.feed(tokens_of(f"hi{END}")) == "hi"
    assert a.finish_reason == "stop"


def test_a_stop_string_ends_it_before_itself():
    a = answer(stops=("lo",))
    assert a.feed(tokens_of("hello")) == "hel"
    assert a.finish_reason == "stop"


def test_held_text_is_delivered_when_the_answer_ends_otherwise():
    a = answer(stops=("low",))
    assert a.feed(tokens_of("hello")) == "hel"
    assert a.feed(tokens_of(END)) == "lo"


def test_a_character_cut_by_the_budget_is_one_replacement():
    assert answer(max_tokens=2).feed(tokens_of("a€")) == "a\ufffd"


def test_a_stop_string_may_be_completed_by_the_end_itself():
    a = answer(stops=("\ufffd",), max_tokens=2)
    assert a.feed(tokens_of("a€")) == "a"
    assert a.finish_reason == "stop"


def test_an_end_nobody_asked_for_is_a_failure_and_no_finish():
    a = answer()
    a.feed(tokens_of("hi"))
    with pytest.raises(GenerationFailed, match="after 2 tokens"):
        a.ended()
    assert a.finish_reason is None


@given(
    text=st.text("ab€😀", max_size=20),
    stops=st.lists(st.text("ab€", min_size=1, max_size=3), max_size=2),
    max_tokens=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 60), max_size=5),
)
def test_however_the_tokens_are_batched_the_answer_is_the_same(
    text: str, stops: list[str], max_tokens: int, cuts: list[int]
):
    token_ids = tokens_of(text + END)
    whole = answer(stops=tuple(stops), max_tokens=max_tokens)
    pieces = answer(stops=tuple(stops), max_tokens=max_tokens)
    edges = sorted({0, len(token_ids), *(cut for cut in cuts if cut < len(token_ids))})
    streamed = "".join(pieces.feed(token_ids[start:end]) for start, end in pairwise(edges))
    assert whole.feed(token_ids) == streamed
    assert (whole.finish_reason, whole.usage) == (pieces.finish_reason, pieces.usage)
