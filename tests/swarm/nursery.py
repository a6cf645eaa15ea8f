"""Forks `brigade` processes from one that has imported everything they need.

Nearly all of a worker's start is Python reading torch and transformers: 7 s of a core, where the
fork of a process that has read them needs 0.5 s. Each is a process of its own all the same.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

READ_FIRST = (
    "shared.bootstrap",
    "transformers.models.llama.modeling_llama",
    "worker.life",
)
START_SECONDS = 90
STOP_SECONDS = 10
MAX_LINE_BYTES = 1 << 20
MAX_ORDER_BYTES = 1 << 16
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GATEWAY_DRAIN_SECONDS": "0",
    "OPENBLAS_NUM_THREADS": "1",  # or numpy starts some as it is read
}
PR_SET_PDEATHSIG = 1
"""See prctl(2)."""


class Nursling:
    """One `brigade COMMAND`, forked."""

    def __init__(self, name: str, pid: int, output: asyncio.StreamReader) -> None:
        self.name = name
        self.pid = pid
        self.lines: list[str] = []
        self.has_ended = False
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read(output))

    async def wait_for(self, text: str, seconds: float = START_SECONDS) -> str:
        """The first line it prints that contains `text`."""
        async with asyncio.timeout(seconds):
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                if self.has_ended:
                    raise AssertionError(f"{self.name}: no {text!r} in:\n" + "\n".join(self.lines))
                self._news.clear()
                await self._news.wait()

    async def ready(self) -> dict[str, Any]:
        """What its ready line says."""
        return json.loads((await self.wait_for(" ready: ")).partition(" ready: ")[2])

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it is gone."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self, seconds: float) -> bool:
        """Wait for it to end by itself; whether it did."""
        await asyncio.wait({self._reading}, timeout=seconds)
        return self.has_ended

    async def stop(self) -> None:
        """End it, whatever state it is in."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        if not await self.end(STOP_SECONDS):
            self.signal(signal.SIGKILL)
        await self._reading

    async def _read(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            self.lines.append(line.decode(errors="replace").rstrip())
            self._news.set()
        self.has_ended = True
        self._news.set()


class Nursery:
    """The process that forks."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._turn = asyncio.Lock()
        self._started: list[tuple[Nursling, asyncio.ReadTransport]] = []

    async def start(
        self, name: str, *arguments: str, namespace: str = "", is_fresh: bool = False
    ) -> Nursling:
        """Fork `brigade ARGUMENTS`, in a network namespace if one is named.

        One that is fresh has read nothing yet: a gateway refuses to live with torch.
        """
        order = {"arguments": arguments, "namespace": namespace, "is_fresh": is_fresh}
        pid, output = await self._order(order)
        reader = asyncio.StreamReader(MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb")
        )
        nursling = Nursling(name, pid, reader)
        self._started.append((nursling, transport))
        return nursling

    async def stop_all(self) -> None:
        """End every process that is left."""
        await asyncio.gather(*(nursling.stop() for nursling, _ in self._started))
        for _, transport in self._started:
            transport.close()

    async def _order(self, order: dict[str, Any]) -> tuple[int, int]:
        """A process id, and where what the process prints can be read."""
        loop = asyncio.get_running_loop()
        output, theirs = os.pipe()
        async with self._turn:
            socket.send_fds(self._orders, [json.dumps(order).encode()], [theirs])
            os.close(theirs)
            return int(await loop.sock_recv(self._orders, 32)), output


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """A nursery, ready to fork; at the end everything it forked is stopped."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.swarm.nursery", str(theirs.fileno())),
        pass_fds=[theirs.fileno()],
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is ours alone to handle
        env=os.environ | ENVIRONMENT,
    )
    theirs.close()
    opened = Nursery(ours)
    try:
        async with asyncio.timeout(START_SECONDS):
            assert await asyncio.get_running_loop().sock_recv(ours, 32) == b"ready"
        yield opened
    finally:
        await opened.stop_all()
        ours.close()
        await process.wait()


def main(orders: socket.socket) -> int:
    """Fork what is ordered until nobody can order any more; in a fork: live its life."""
    for module in READ_FIRST:
        import_module(module)
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
    gc.freeze()  # what is shared stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies: nobody asks how they ended
    orders.send(b"ready")
    while True:
        order, fds, _, _ = socket.recv_fds(orders, MAX_ORDER_BYTES, 1)
        if not order:
            return 0
        if pid := os.fork():
            os.close(fds[0])
            orders.send(str(pid).encode())
            continue
        orders.close()
        return _live(**json.loads(order), output=fds[0])


def _live(arguments: list[str], namespace: str, is_fresh: bool, output: int) -> int:
    from shared import brigade

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    if namespace:
        with open(f"/run/netns/{namespace}") as file:
            assert libc.setns(file.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
    if is_fresh:
        os.execv(sys.executable, [sys.executable, "-m", "shared.brigade", *arguments])
    return brigade.main(arguments)


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
