"""Values, errors and cancellation cross to and from the trio thread, which outlives bugs."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from shared.discovery import thread as thread_module
from shared.discovery.thread import TrioThread
from shared.errors import ConfigError, PeerUnreachable

Ready = Callable[[list[str]], None]


class Dead(Exception):
    """What a world dies of here."""


async def live(ready: Ready) -> None:
    ready(["resident"])
    await trio.sleep_forever()


@asynccontextmanager
async def running(
    world: Callable[[Ready], Awaitable[None]],
) -> AsyncIterator[TrioThread[list[str]]]:
    thread = TrioThread(world, "test")
    await thread.start()
    try:
        yield thread
    finally:
        await thread.stop()
    assert "test" not in [t.name for t in threading.enumerate()]


async def first(resident: list[str]) -> str:
    await trio.lowlevel.checkpoint()
    return resident[0]


async def sleep_forever(_: list[str]) -> None:
    await trio.sleep_forever()


async def test_values_cross():
    async with running(live) as thread:
        assert await thread.call(first) == "resident"


@pytest.mark.skipif(sys.platform != "linux", reason="threads share one priority here")
async def test_the_rest_of_the_process_goes_first():
    async def niceness(_: list[str]) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async with running(live) as thread:
        assert await thread.call(niceness) > os.getpriority(os.PRIO_PROCESS, 0)


async def test_errors_cross():
    async def fail(_: list[str]) -> None:
        raise ConfigError("no water")

    async with running(live) as thread:
        with pytest.raises(ConfigError, match="no water"):
            await thread.call(fail)
        assert await thread.call(first) == "resident"


async def test_cancellation_crosses():
    began, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def linger(_: list[str]) -> None:
        loop.call_soon_threadsafe(began.set)
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with running(live) as thread:
        call = asyncio.create_task(thread.call(linger))
        await began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(ended.wait, 5)


async def test_a_world_that_cannot_begin_fails_the_start():
    async def broken(_: Ready) -> None:
        async with trio.open_nursery():
            raise ConfigError("port 1 is taken")

    thread = TrioThread(broken, "test")
    with pytest.raises(ConfigError, match="port 1 is taken"):
        await thread.start()
    await thread.stop()


async def test_a_world_that_dies_is_run_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(thread_module, "FIRST_PAUSE_SECONDS", 0.01)
    lives: list[int] = []
    poison: list[trio.Event] = []
    again = threading.Event()

    async def mortal(ready: Ready) -> None:
        lives.append(1)
        poison.append(trio.Event())
        ready([f"life {len(lives)}"])
        if len(lives) > 1:
            again.set()
        await poison[-1].wait()
        raise Dead

    async def kill(_: list[str]) -> None:
        poison[-1].set()
        await trio.sleep_forever()

    async with running(mortal) as thread:
        with pytest.raises(PeerUnreachable, match=r"stopped|cancelled"):
            await thread.call(kill)
        assert await asyncio.to_thread(again.wait, 5)
        assert await thread.call(first) == "life 2"


async def test_calls_on_a_dead_or_stopped_world_fail_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(thread_module, "FIRST_PAUSE_SECONDS", 60.0)

    async def brief(ready: Ready) -> None:
        ready(["resident"])
        raise Dead

    async with running(brief) as thread:
        with pytest.raises(PeerUnreachable):
            await thread.call(sleep_forever)
        with pytest.raises(PeerUnreachable):
            await thread.call(first)
    with pytest.raises(PeerUnreachable):
        await thread.call(first)


async def test_stopping_fails_the_calls_under_way():
    async with running(live) as thread:
        call = asyncio.create_task(thread.call(sleep_forever))
        await thread.call(first)
        await thread.stop()
        with pytest.raises(PeerUnreachable):
            await call
