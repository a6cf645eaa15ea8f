from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.answer import Answer, Manner
from gateway.api.said import Said, Text, joined
from gateway.generator import Token
from shared.errors import GenerationFailed
from shared.wire.messages import TokenLogprobs
from tests.fakes import END, chat_text, tokens_of

TEXT = chat_text()


def feed(a: Answer, text: str) -> str:
    return text_of(a.feed([Token(one) for one in tokens_of(text)]))


def text_of(said: list[Said]) -> str:
    return "".join(one.text for one in said if isinstance(one, Text))


def tokens_in(said: list[Said]) -> tuple[Token, ...]:
    return tuple(token for one in said if isinstance(one, Text) for token in one.tokens)


def answer(*, stops: tuple[str, ...] = (), max_tokens: int = 100) -> Answer:
    manner = Manner(stop_ids=TEXT.stop_ids, max_tokens=max_tokens, stops=stops)
    return Answer(TEXT.decoder(), manner)


def test_a_stop_id_ends_it_is_counted_and_not_shown():
    a = answer()
    assert feed(a, f"hi{END}more") == "hi"
    assert (a.finish_reason, a.num_tokens) == ("stop", 3)


def test_the_budget_ends_it_at_exactly_so_many_tokens():
    a = answer(max_tokens=2)
    assert feed(a, "hello") == "he"
    assert (a.finish_reason, a.num_tokens) == ("length", 2)


def test_a_stop_id_as_the_last_of_the_budget_is_a_stop():
    a = answer(max_tokens=3)
    assert feed(a, f"hi{END}") == "hi"
    assert a.finish_reason == "stop"


def test_a_stop_string_ends_it_before_itself():
    a = answer(stops=("lo",))
    assert feed(a, "hello") == "hel"
    assert a.finish_reason == "stop"


def test_held_text_is_delivered_when_the_answer_ends_otherwise():
    a = answer(stops=("low",))
    assert feed(a, "hello") == "hel"
    assert feed(a, END) == "lo"


def test_a_character_cut_by_the_budget_is_one_replacement():
    assert feed(answer(max_tokens=2), "a€") == "a\ufffd"


def test_a_stop_string_may_be_completed_by_the_end_itself():
    a = answer(stops=("\ufffd",), max_tokens=2)
    assert feed(a, "a€") == "a"
    assert a.finish_reason == "stop"


def test_an_end_nobody_asked_for_is_a_failure_and_no_finish():
    a = answer()
    feed(a, "hi")
    with pytest.raises(GenerationFailed, match="after 2 tokens"):
        a.ended()
    assert a.finish_reason is None


def told(a: Answer, tokens: list[Token]) -> list[tuple[str, int]]:
    """The text of each piece and how many tokens came with it, one token fed at a time."""
    pieces = [a.feed([token]) for token in tokens]
    return [(text_of(said), len(tokens_in(said))) for said in pieces]


def with_logprobs(text: str) -> list[Token]:
    return [Token(token_id, TokenLogprobs(-1.0)) for token_id in tokens_of(text)]


def test_a_piece_has_the_tokens_whose_text_begins_in_it():
    tokens = with_logprobs(f"a€b{END}")
    assert told(answer(), tokens) == [("a", 1), ("", 0), ("", 0), ("€", 3), ("b", 1), ("", 0)]


def test_what_the_first_token_tells_of_the_prompt_is_kept():
    a, told = answer(), (TokenLogprobs(-1.0, rank=1),)
    a.feed([Token(1, cached_tokens=2, prompt_logprobs=told)])
    a.feed([Token(2)])
    assert a.num_cached == 2
    assert a.prompt_logprobs == told


def test_held_text_keeps_its_tokens_with_it():
    assert told(answer(stops=("low",)), with_logprobs(f"hlo{END}")) == [
        ("h", 1),
        ("", 0),
        ("", 0),
        ("lo", 2),
    ]


def test_the_tokens_of_a_stop_string_are_not_told():
    assert told(answer(stops=("lo",)), with_logprobs("hlo")) == [("h", 1), ("", 0), ("", 0)]


def test_a_token_without_text_goes_with_the_next_one():
    free = Answer(TEXT.decoder(), Manner(stop_ids=frozenset(), max_tokens=9))
    assert told(free, with_logprobs(f"a{END}b")) == [("a", 1), ("", 0), ("b", 2)]


@given(
    text=st.text("ab€😀", max_size=20),
    stops=st.lists(st.text("ab€", min_size=1, max_size=3), max_size=2),
    max_tokens=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 60), max_size=5),
)
def test_however_the_tokens_are_batched_the_answer_is_the_same(
    text: str, stops: list[str], max_tokens: int, cuts: list[int]
):
    tokens = with_logprobs(text + END)
    whole = answer(stops=tuple(stops), max_tokens=max_tokens)
    pieces = answer(stops=tuple(stops), max_tokens=max_tokens)
    edges = sorted({0, len(tokens), *(cut for cut in cuts if cut < len(tokens))})
    streamed = [pieces.feed(tokens[start:end]) for start, end in pairwise(edges)]
    expected = whole.feed(tokens)
    assert expected == joined(said for piece in streamed for said in piece)
    assert (whole.finish_reason, whole.num_tokens) == (pieces.finish_reason, pieces.num_tokens)
