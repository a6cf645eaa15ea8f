"""Real `brigade` processes for tests: started, waited for, killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 90


class Brigade:
    """One `brigade COMMAND`. Its ready line, when there is one, is in `state`."""

    def __init__(self, *arguments: str, home: Path) -> None:
        self.arguments = arguments
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "shared.brigade", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"HOME": str(home), "OMP_WAIT_POLICY": "PASSIVE"},
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        """All it printed so far."""
        return "\n".join(self.lines)

    def wait_for(self, text: str, seconds: float = START_SECONDS) -> str:
        """The first line that contains `text`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if text in line:
                    return line
            if self._process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"{self.arguments}: no {text!r} in:\n{self.output}")

    def ready(self) -> dict[str, Any]:
        """What its ready line says."""
        return json.loads(self.wait_for(" ready: ").partition(" ready: ")[2])

    def exit_code(self, seconds: float = START_SECONDS) -> int:
        """Wait for its end."""
        code = self._process.wait(seconds)
        self._reader.join()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.lines.append(line.rstrip())


def wait_until(holds: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for `holds` to be true; the seconds it took."""
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        if holds():
            return time.monotonic() - started
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def swarm_of(url: str) -> dict[str, Any]:
    """What the gateway at `url` says of its swarm."""
    return httpx.get(f"{url}/swarm", timeout=10).raise_for_status().json()


def num_sessions(url: str) -> int:
    """Sessions on all workers, as they last said."""
    statuses = [worker["status"] for worker in swarm_of(url)["workers"]]
    return sum(status["sessions"] for status in statuses if status)
