"""Shows how far a download is: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Lock

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_PERIOD_SECONDS = 2.0

Update = Callable[[int, int], None]
"""Takes the bytes that are here and the bytes in all. May be called from any thread."""


@contextmanager
def shown(what: str, say: Callable[[str], None]) -> Generator[Update]:
    """Show progress of `what` while the block runs: with `say`, where there is no terminal."""
    if not sys.stdout.isatty():
        yield Lines(what, say, time.monotonic)
        return
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), DownloadColumn()),
        *(TransferSpeedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


class Lines:
    """Says percents and speed: at most one line for each percent and each two seconds."""

    def __init__(self, what: str, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._what = what
        self._say = say
        self._clock = clock
        self._lock = Lock()
        self._first: tuple[float, int] | None = None
        self._last = (float("-inf"), -1)

    def __call__(self, done: int, total: int) -> None:
        """Note that `done` bytes of `total` are here."""
        with self._lock:
            now = self._clock()
            self._first = self._first or (now, done)
            percent = 100 * done // total if total else 100
            said_at, said = self._last
            if percent <= said or (now < said_at + LINE_PERIOD_SECONDS and percent < 100):
                return
            self._last = (now, percent)
            began_at, began = self._first
            if done == began:
                return  # nothing was fetched yet, or ever
            speed = (done - began) / max(now - began_at, 1e-9) / 1e6
            self._say(
                f"fetching {self._what}: {percent} % of {total / 1e6:.1f} MB, {speed:.1f} MB/s"
            )
