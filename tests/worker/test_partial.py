"""Files with holes: what is here is known, and survives any end."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.partial import ByteRange, PartialFile, merged, num_bytes, pieces, subtract

RANGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 15)).map(lambda t: ByteRange(t[0], t[0] + t[1])),
    max_size=8,
)


def members(parts: list[ByteRange]) -> set[int]:
    return {byte for start, end in parts for byte in range(start, end)}


@given(RANGES)
def test_merged_ranges_hold_the_same_bytes_in_order_and_apart(parts: list[ByteRange]):
    found = merged(parts)
    assert members(found) == members(parts)
    assert all(a.end < b.start for a, b in pairwise(found))
    assert num_bytes(found) == len(members(parts))


@given(RANGES, RANGES)
def test_what_is_left_is_what_was_not_taken(parts: list[ByteRange], taken: list[ByteRange]):
    left = subtract(merged(parts), merged(taken))
    assert members(left) == members(parts) - members(taken)
    assert num_bytes(left) == len(members(left))


@given(RANGES, st.integers(1, 20))
def test_pieces_hold_the_same_bytes_and_none_is_too_large(parts: list[ByteRange], size: int):
    cut = pieces(merged(parts), size)
    assert members(cut) == members(parts)
    assert all(0 < end - start <= size for start, end in cut)


def test_what_was_written_is_known_to_the_next_process(tmp_path: Path):
    first = PartialFile(tmp_path / "sub" / "f")
    first.create(100)
    first.write(10, b"abc")
    first.write(13, b"de")
    second = PartialFile(tmp_path / "sub" / "f")
    assert second.missing([ByteRange(8, 20)]) == [ByteRange(8, 10), ByteRange(15, 20)]
    assert second.read(ByteRange(10, 15)) == b"abcde"
    assert second.path.stat().st_size == 100


def test_creating_it_again_changes_nothing(tmp_path: Path):
    file = PartialFile(tmp_path / "f")
    file.create(10)
    file.write(0, b"abc")
    file.create(10)
    assert file.read(ByteRange(0, 3)) == b"abc"


@pytest.mark.parametrize("torn", ["5", "5 ", "5 9", "5 9 1\n", "\n"])
def test_a_line_that_a_crash_cut_off_counts_for_nothing(tmp_path: Path, torn: str):
    file = PartialFile(tmp_path / "f")
    file.create(10)
    file.write(0, b"abc")
    with (tmp_path / "f.have").open("a") as journal:
        journal.write(torn)
    assert PartialFile(tmp_path / "f").missing([ByteRange(0, 10)]) == [ByteRange(3, 10)]


def test_a_journal_without_its_file_counts_for_nothing(tmp_path: Path):
    file = PartialFile(tmp_path / "f")
    file.create(10)
    file.write(0, b"abc")
    (tmp_path / "f").unlink()
    assert PartialFile(tmp_path / "f").missing([ByteRange(0, 3)]) == [ByteRange(0, 3)]
