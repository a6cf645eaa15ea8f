"""Checkpoints: exact bytes by position, contiguous from 0, under one budget."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.checkpoints import Checkpoints, Stretch
from shared.swarm import SessionId
from shared.wire.messages import PREFIX_PAGE_TOKENS

ONE, TWO = SessionId(b"1" * 16), SessionId(b"2" * 16)
ROW = 4


def stretch(position: int, rows: str) -> Stretch:
    """Rows named by one letter each."""
    payload = "".join(row * ROW for row in rows).encode()
    return Stretch(position, len(rows), "float32", memoryview(payload))


def kept(checkpoints: Checkpoints, start: int, end: int, session: SessionId = ONE) -> str:
    _, payload = checkpoints.rows(session, 8, start, end)
    return payload.decode()[::ROW]


def opened(budget: int = 1000) -> Checkpoints:
    checkpoints = Checkpoints(budget)
    checkpoints.open(ONE)
    checkpoints.open(TWO)
    return checkpoints


def test_rows_come_back_as_they_came_over_the_wire():
    checkpoints = opened()
    checkpoints.add(ONE, 8, stretch(0, "abc"))
    checkpoints.add(ONE, 8, stretch(3, "de"))
    assert checkpoints.held(ONE, 8) == 5
    assert kept(checkpoints, 0, 5) == "abcde"
    assert kept(checkpoints, 1, 4) == "bcd"
    assert kept(checkpoints, 4, 5) == "e"


def test_the_first_copy_of_a_position_stays():
    checkpoints = opened()
    checkpoints.add(ONE, 8, stretch(0, "ab"))
    checkpoints.add(ONE, 8, stretch(0, "xyz"))
    assert kept(checkpoints, 0, 3) == "abz"


def test_rows_beyond_a_hole_are_not_kept():
    checkpoints = opened()
    checkpoints.add(ONE, 8, stretch(1, "b"))
    assert checkpoints.held(ONE, 8) == 0
    assert checkpoints.num_bytes == 0


def test_over_the_budget_the_session_checkpointed_longest_ago_is_shed_for_good():
    checkpoints = opened(budget=4 * ROW)
    checkpoints.add(ONE, 8, stretch(0, "abc"))
    checkpoints.add(TWO, 8, stretch(0, "xy"))
    assert checkpoints.held(ONE, 8) == 0
    assert kept(checkpoints, 0, 2, TWO) == "xy"
    assert checkpoints.shed_bytes == 3 * ROW
    checkpoints.add(ONE, 8, stretch(0, "abc"))
    assert checkpoints.held(ONE, 8) == 0


def test_a_budget_of_nothing_keeps_nothing_and_fails_nothing():
    checkpoints = opened(budget=0)
    checkpoints.add(ONE, 8, stretch(0, "abc"))
    assert checkpoints.held(ONE, 8) == 0


def test_dropping_a_session_gives_its_bytes_back():
    checkpoints = opened()
    checkpoints.add(ONE, 8, stretch(0, "abc"))
    checkpoints.keep(ONE, ())
    assert checkpoints.num_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=30), st.data())
def test_whatever_is_added_what_is_held_is_contiguous_and_right(
    additions: list[tuple[int, int]], data: st.DataObject
):
    """Row i of the text is the letter of i, whoever sends it."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    checkpoints = opened(budget=1 << 20)
    for position, count in additions:
        checkpoints.add(ONE, 8, stretch(position, letters[position : position + count]))
    held = checkpoints.held(ONE, 8)
    assert checkpoints.num_bytes == held * ROW
    if held:
        start = data.draw(st.integers(0, held - 1))
        end = data.draw(st.integers(start + 1, held))
        assert kept(checkpoints, start, end) == letters[start:end]


def test_a_row_kept_of_a_large_frame_does_not_keep_the_frame():
    checkpoints = opened()
    frame = memoryview(b"a" * ROW * 10)
    checkpoints.add(ONE, 8, Stretch(0, 10, "float32", frame).head(1))
    (kept_stretch,) = checkpoints._sessions[ONE].blocks[8]
    assert len(kept_stretch.payload.obj) == ROW


def test_rows_of_another_dtype_are_not_joined_to_those_held():
    checkpoints = opened()
    checkpoints.add(ONE, 8, stretch(0, "abc"))
    checkpoints.add(ONE, 8, Stretch(3, 1, "bfloat16", memoryview(b"xy")))
    assert checkpoints.held(ONE, 8) == 3
    checkpoints.truncate(ONE, 0)
    checkpoints.add(ONE, 8, Stretch(0, 1, "bfloat16", memoryview(b"xy")))
    assert checkpoints.rows(ONE, 8, 0, 1) == ("bfloat16", b"xy")


def test_what_comes_after_a_position_is_forgotten():
    checkpoints = opened()
    checkpoints.add(ONE, 8, stretch(0, "abc"))
    checkpoints.add(ONE, 8, stretch(3, "de"))
    checkpoints.truncate(ONE, 2)
    assert checkpoints.held(ONE, 8) == 2
    assert checkpoints.num_bytes == 2 * ROW
    assert kept(checkpoints, 0, 2) == "ab"


PAGE = PREFIX_PAGE_TOKENS
KEYS = (b"a" * 16, b"ab" * 8, b"abc" + bytes(13))


def ended(letters: str, keys: tuple[bytes, ...], budget: int = 10_000) -> Checkpoints:
    """A session of a page per letter has ended and left these pages behind."""
    checkpoints = opened(budget)
    checkpoints.add(ONE, 8, stretch(0, "".join(letter * PAGE for letter in letters)))
    checkpoints.keep(ONE, keys)
    return checkpoints


def test_a_text_that_begins_alike_adopts_what_an_ended_session_left():
    checkpoints = ended("abc", KEYS[:2])
    checkpoints.adopt(TWO, KEYS[:1])
    assert checkpoints.held(TWO, 8) == PAGE
    assert kept(checkpoints, PAGE - 1, PAGE, TWO) == "a"
    checkpoints.add(TWO, 8, stretch(PAGE, "xy"))
    assert kept(checkpoints, PAGE - 1, PAGE + 2, TWO) == "axy"


def test_pages_nobody_kept_are_not_adopted():
    checkpoints = ended("a", KEYS[:1])
    checkpoints.adopt(TWO, KEYS[:2])
    checkpoints.adopt(TWO, ())
    assert checkpoints.held(TWO, 8) == 0


def test_a_longer_text_takes_the_place_of_what_it_begins_with():
    checkpoints = ended("a", KEYS[:1])
    checkpoints.add(TWO, 8, stretch(0, "a" * PAGE + "b" * PAGE))
    checkpoints.keep(TWO, KEYS[:2])
    assert checkpoints.num_bytes == 2 * PAGE * ROW


def test_the_same_text_is_kept_once():
    checkpoints = ended("a", KEYS[:1])
    checkpoints.add(TWO, 8, stretch(0, "a" * PAGE))
    checkpoints.keep(TWO, KEYS[:1])
    assert checkpoints.num_bytes == PAGE * ROW


def test_what_ended_sessions_left_is_let_go_of_first():
    checkpoints = ended("a", KEYS[:1], budget=PAGE * ROW)
    checkpoints.add(TWO, 8, stretch(0, "x"))
    assert checkpoints.held(TWO, 8) == 1
    assert checkpoints.num_bytes == ROW
    assert checkpoints.shed_bytes == 0


def test_then_the_session_that_holds_most_pays():
    checkpoints = opened(budget=5 * ROW)
    checkpoints.add(ONE, 8, stretch(0, "abcd"))
    checkpoints.add(TWO, 8, stretch(0, "xy"))
    assert checkpoints.held(ONE, 8) == 0
    assert kept(checkpoints, 0, 2, TWO) == "xy"
    assert checkpoints.shed_bytes == 4 * ROW


def test_one_block_may_be_forgotten_alone():
    checkpoints = opened()
    checkpoints.add(ONE, 8, stretch(0, "ab"))
    checkpoints.add(ONE, 16, stretch(0, "cd"))
    checkpoints.forget(ONE, 8)
    checkpoints.forget(ONE, 24)
    assert (checkpoints.held(ONE, 8), checkpoints.held(ONE, 16)) == (0, 2)
    assert checkpoints.num_bytes == 2 * ROW
