"""One process that `brigade up` started: its progress, its ready line and its end."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Sequence

from shared.errors import BrigadeError

BRIGADE = (sys.executable, "-P", "-m", "shared.brigade", "--stop-at-eof")
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads of one worker would starve the others
    "PYTHONUNBUFFERED": "1",
    "TQDM_DISABLE": "1",  # libraries' progress bars; ours are on standard output
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # that a gateway lacks torch is as it should be
}
KEPT_ERROR_LINES = 20
LINE_LIMIT_BYTES = 1 << 20

Show = Callable[[str, str], None]
"""Told a child's name and, in words, its new state."""


class ChildEnded(BrigadeError):
    """A process ended that was needed."""

    code = "child_ended"


class Child:
    """A running `brigade COMMAND`. Ends with this process, however this process ends."""

    def __init__(self, name: str, process: Process, *, show: Show) -> None:
        self.name = name
        self.pid = process.pid
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.error_lines: deque[str] = deque(maxlen=KEPT_ERROR_LINES)
        self.relays_errors = False
        self._process = process
        self._show = show
        self.ended = asyncio.create_task(self._watch())

    @classmethod
    async def start(cls, name: str, arguments: Sequence[str], *, show: Show) -> "Child":
        """Start `brigade *arguments`."""
        process = await asyncio.create_subprocess_exec(
            *BRIGADE,
            *arguments,
            stdin=PIPE,  # kept open, never written: its end is how a child learns that we are gone
            stdout=PIPE,
            stderr=PIPE,
            limit=LINE_LIMIT_BYTES,
            start_new_session=True,  # a terminal's Ctrl-C is for us alone; we end them in order
            env=os.environ | ENVIRONMENT,
        )
        return cls(name, process, show=show)

    @property
    def reason(self) -> str:
        """Why it ended, with the last it said on standard error."""
        ending = f"{self.name} (pid {self.pid}) ended {describe_exit(self._process.returncode)}"
        return "\n".join([ending, *(f"  {line}" for line in self.error_lines)])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended already."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def _watch(self) -> None:
        """Follows the process to its end."""
        await asyncio.gather(self._read_output(), self._read_errors(), self._process.wait())
        if not self.ready.done():
            self.ready.set_exception(ChildEnded(self.reason))
            self.ready.exception()  # it is no error if nobody waits for it any more

    async def _read_output(self) -> None:
        assert self._process.stdout
        async for raw in self._process.stdout:
            kind, _, text = raw.decode(errors="replace").strip().partition(": ")
            if kind.endswith(" ready") and not self.ready.done():
                self.ready.set_result(text)
                self._show(self.name, "ready")
            elif text:
                self._show(self.name, text)

    async def _read_errors(self) -> None:
        assert self._process.stderr
        async for raw in self._process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self.error_lines.append(line)
            if self.relays_errors:
                print(f"{self.name} | {line}", file=sys.stderr, flush=True)


def describe_exit(returncode: int | None) -> str:
    """`with status 2` or `by SIGKILL`."""
    if returncode is None or returncode >= 0:
        return f"with status {returncode}"
    return f"by {signal.Signals(-returncode).name}"


async def stop_all(children: Sequence[Child], *, grace_seconds: float) -> None:
    """End every child: SIGTERM, and SIGKILL for those still there after the grace."""
    for child in children:
        child.signal(signal.SIGTERM)
    ends = [child.ended for child in children]
    if not ends:
        return
    _, slow = await asyncio.wait(ends, timeout=grace_seconds)
    for child in children:
        child.signal(signal.SIGKILL)
    if slow:
        await asyncio.wait(slow)
