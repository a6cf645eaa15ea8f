"""Progress where there is no terminal: few lines, each with percent and speed."""

import pytest

from worker.progress import Lines, shown


def lines(*updates: tuple[float, int], total: int = 100_000_000) -> list[str]:
    said: list[str] = []
    now = 0.0
    progress = Lines("blocks 0:2 of tiny", said.append, lambda: now)
    for now, done in updates:  # noqa: B007
        progress(done, total)
    return said


def test_a_line_has_percent_and_speed_of_what_this_run_fetched():
    assert lines((0, 10_000_000), (4, 50_000_000)) == [
        "fetching blocks 0:2 of tiny: 50 % of 100.0 MB, 10.0 MB/s"
    ]


def test_lines_are_two_seconds_apart_but_for_the_last():
    updates = [(second / 4, second * 2_000_000) for second in range(51)]
    said = lines(*updates)
    assert len(said) == 7
    assert said[-1].startswith("fetching blocks 0:2 of tiny: 100 %")


def test_nothing_is_said_when_all_is_here():
    assert lines((0, 100_000_000)) == []
    assert lines((0, 0), total=0) == []


def test_without_a_terminal_lines_are_said(capsys: pytest.CaptureFixture[str]):
    said: list[str] = []
    with shown("it", said.append) as update:
        update(0, 10)
        update(10, 10)
    assert len(said) == 1
    assert capsys.readouterr().out == ""
