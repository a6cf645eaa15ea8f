"""A real server that speaks Redis' protocol, for as long as a test needs it."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_SECONDS = 20


class StoreServer:
    """`valkey-server` or `redis-server` on a free port, keeping nothing on disk."""

    def __init__(self, binary: str, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._command = [binary, "--port", str(self.port), "--bind", "127.0.0.1"]
        self._command += ["--save", "", "--appendonly", "no", "--dir", str(home)]
        self.start()

    @property
    def url(self) -> str:
        """As a setting names it."""
        return f"valkey://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it can be reached."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, "the store's server does not start"
                time.sleep(0.02)

    def kill(self) -> None:
        """End it, and all it kept."""
        self._process.kill()
        self._process.wait()


@contextmanager
def store_server(home: Path) -> Iterator[StoreServer]:
    """One to use; without a binary the test is skipped."""
    binary = shutil.which("valkey-server") or shutil.which("redis-server")
    if binary is None:
        pytest.skip("neither valkey-server nor redis-server is installed: apt-get install one")
    server = StoreServer(binary, home)
    try:
        yield server
    finally:
        server.kill()
