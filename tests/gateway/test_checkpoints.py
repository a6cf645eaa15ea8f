"""Checkpoints: exact bytes by position, contiguous from 0, under one budget."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.checkpoints import Checkpoints, Overflow, Stretch
from gateway.spill import Spill, Spilled
from shared.errors import CheckpointLost, ConfigError
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


def opened(budget: int = 1000, spill: Overflow | None = None) -> Checkpoints:
    checkpoints = Checkpoints(budget, spill)
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


def ended(
    letters: str,
    keys: tuple[bytes, ...],
    budget: int = 10_000,
    spill: Overflow | None = None,
) -> Checkpoints:
    """A session of a page per letter has ended and left these pages behind."""
    checkpoints = opened(budget, spill)
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


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def spill(tmp_path: Path, rows: int, batch_rows: int = 4) -> Spill:
    spill = Spill(tmp_path, rows * ROW)
    spill.batch_bytes = batch_rows * ROW
    return spill


def grown(disk: Spill | None, budget_rows: int, sessions: tuple[SessionId, ...]) -> Checkpoints:
    """Sessions of 26 rows in two blocks each, that came row by row."""
    checkpoints = opened(budget_rows * ROW, disk)
    for at in range(26):
        for session in sessions:
            for block in (8, 16):
                checkpoints.add(session, block, stretch(at, LETTERS[at]))
    return checkpoints


def test_what_memory_has_no_room_for_is_read_back_from_disk(tmp_path: Path):
    disk = spill(tmp_path, rows=200)
    checkpoints = grown(disk, 10, (ONE, TWO))
    for session in (ONE, TWO):
        assert checkpoints.held(session, 8) == checkpoints.held(session, 16) == 26
        assert kept(checkpoints, 0, 26, session) == LETTERS
        assert kept(checkpoints, 3, 5, session) == LETTERS[3:5]
    assert checkpoints.num_bytes <= 10 * ROW
    assert checkpoints.num_bytes + checkpoints.disk_bytes == 4 * 26 * ROW
    assert checkpoints.shed_bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_rows_go_to_disk_a_batch_at_a_time(tmp_path: Path):
    checkpoints = grown(spill(tmp_path, rows=200, batch_rows=20), 30, (ONE,))
    rows = [s.payload for s in checkpoints._sessions[ONE].blocks[8]]
    written = {part.file for part in rows if isinstance(part, Spilled)}
    assert len(written) == 2  # of 52 rows of both blocks, 22 too many for memory


def test_disk_is_given_back_when_all_is_over_that_was_written_together(tmp_path: Path):
    checkpoints = grown(spill(tmp_path, rows=200), 10, (ONE, TWO))
    checkpoints.keep(ONE, ())
    assert checkpoints.disk_bytes > 0
    assert kept(checkpoints, 0, 26, TWO) == LETTERS
    checkpoints.keep(TWO, ())
    assert (checkpoints.num_bytes, checkpoints.disk_bytes) == (0, 0)


def test_what_is_cut_off_or_forgotten_on_disk_takes_nothing_from_memory(tmp_path: Path):
    checkpoints = grown(spill(tmp_path, rows=200), 10, (ONE,))
    checkpoints.truncate(ONE, 3)
    assert checkpoints.num_bytes == 0
    assert kept(checkpoints, 0, 3) == "abc"
    checkpoints.add(ONE, 8, stretch(3, "xy"))
    assert kept(checkpoints, 0, 5) == "abcxy"
    checkpoints.forget(ONE, 8)
    assert checkpoints.num_bytes == 0


def test_what_ended_sessions_left_goes_to_disk_first(tmp_path: Path):
    checkpoints = ended("ab", KEYS[:2], budget=PAGE * ROW, spill=spill(tmp_path, rows=4 * PAGE))
    checkpoints.add(TWO, 8, stretch(0, "x"))
    assert checkpoints.disk_bytes == 2 * PAGE * ROW
    assert checkpoints.num_bytes == ROW
    checkpoints.keep(TWO, ())
    checkpoints.open(TWO)
    checkpoints.adopt(TWO, KEYS[:2])
    assert kept(checkpoints, PAGE - 1, PAGE + 1, TWO) == "ab"


def test_when_the_disk_is_full_what_ended_sessions_left_is_let_go_of_first(tmp_path: Path):
    checkpoints = ended("a", KEYS[:1], budget=PAGE * ROW, spill=spill(tmp_path, rows=PAGE))
    checkpoints.add(TWO, 8, stretch(0, "x" * PAGE))
    checkpoints.add(TWO, 8, stretch(PAGE, "y" * PAGE))
    assert kept(checkpoints, PAGE - 1, PAGE + 1, TWO) == "xy"
    assert (checkpoints.disk_bytes, checkpoints.shed_bytes) == (PAGE * ROW, 0)


def test_when_the_disk_is_full_too_the_session_that_holds_most_pays(tmp_path: Path):
    checkpoints = grown(spill(tmp_path, rows=30), 10, (ONE,))
    assert checkpoints.held(ONE, 8) == 0
    assert checkpoints.shed_bytes > 0
    assert (checkpoints.num_bytes, checkpoints.disk_bytes) == (0, 0)


def test_a_disk_that_takes_nothing_costs_copies_and_no_request(tmp_path: Path):
    gone = tmp_path / "gone"
    gone.mkdir()
    disk = spill(gone, rows=200)
    gone.rmdir()
    with capture_logs() as logs:
        checkpoints = grown(disk, 10, (ONE,))
    assert checkpoints.held(ONE, 8) == 0
    assert [entry["event"] for entry in logs] == ["spill_failed"]


def test_a_directory_that_takes_no_file_is_said_at_once(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"No such file.*GATEWAY_CHECKPOINT_SPILL_DIR"):
        Spill(tmp_path / "missing", 1 << 20)


def test_there_are_no_more_files_than_descriptors_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gateway.spill.resource.getrlimit", lambda _: (4, 4))
    disk = spill(tmp_path, rows=200)
    first, second = disk.take([memoryview(b"ab")]), disk.take([memoryview(b"c")])
    assert first
    assert second
    assert disk.take([memoryview(b"d")]) is None
    assert (first.read(), second.read()) == (b"ab", b"c")
    del first
    third = disk.take([memoryview(b"d")])
    assert third
    assert third.read() == b"d"


def test_what_a_disk_does_not_give_back_is_lost_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoints = grown(spill(tmp_path, rows=200), 10, (ONE,))
    for part in [s.payload for s in checkpoints._sessions[ONE].blocks[8]][1:2]:
        assert isinstance(part, Spilled)
        os.ftruncate(part.file.descriptor, 1)
    with pytest.raises(CheckpointLost, match=r"of which \d are left"):
        checkpoints.rows(ONE, 8, 0, 26)
    assert kept(checkpoints, 25, 26) == LETTERS[25]
    checkpoints.forget(ONE, 8)
    with pytest.raises(CheckpointLost, match="not held"):
        checkpoints.rows(ONE, 8, 0, 1)

    def fail(*_: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("gateway.spill.os.pread", fail)
    with pytest.raises(CheckpointLost, match=os.strerror(errno.EIO)):
        checkpoints.rows(ONE, 16, 0, 26)
