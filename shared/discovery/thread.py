# pyright: reportUnknownMemberType=false
"""Runs a trio world in one daemon thread for asyncio callers; keeps it running when it dies.

Plain values, errors and cancellation cross in both directions; nothing else is shared.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar, cast

import structlog
import trio

from shared.errors import PeerUnreachable

log = structlog.get_logger()

T = TypeVar("T")
R = TypeVar("R")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
HEALTHY_SECONDS = 60.0
"""A world that lived this long is restarted without the pauses earlier deaths have earned."""
JOIN_SECONDS = 10.0
NICENESS = 10
"""Of the thread, see nice(2): its world comes in bursts, which steps should not wait for."""


class _Door(NamedTuple):
    """Where errands enter a running world."""

    token: trio.lowlevel.TrioToken
    nursery: trio.Nursery


class TrioThread(Generic[T]):
    """A thread whose trio world has one resident, which `call` lends to errands.

    `live` is the world: it calls its argument with the resident once errands may run, and goes on
    until it is cancelled.
    """

    def __init__(self, live: Callable[[Callable[[T], None]], Awaitable[None]], name: str) -> None:
        self._live = live
        self._name = name
        self._started: Future[None] = Future()
        self._is_stopping = threading.Event()
        self._door: _Door | None = None
        self._resident: T | None = None
        self._errands: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._keep_alive, name=name, daemon=True)

    async def start(self) -> None:
        """Wait until the resident is there. Raises what the world died of instead."""
        self._thread.start()
        await asyncio.wrap_future(self._started)

    async def call(self, errand: Callable[[T], Awaitable[R]]) -> R:
        """What `errand` returns or raises in the thread; cancelling the call cancels it.

        Raises PeerUnreachable while there is no resident, or when it dies meanwhile.
        """
        result: Future[R] = Future()
        scope = trio.CancelScope()  # pyright: ignore[reportCallIssue]  # trio-typing is older than trio
        self._errands.add(result)
        result.add_done_callback(self._errands.discard)
        self._post(result, lambda: self._start_errand(errand, result, scope))
        try:
            return await asyncio.wrap_future(result)
        except asyncio.CancelledError:
            self._post(result, scope.cancel)
            raise

    async def stop(self) -> None:
        """End the world and its thread."""
        self._is_stopping.set()
        door = self._door
        if door is not None:
            self._run_soon(door, door.nursery.cancel_scope.cancel)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, JOIN_SECONDS)
        if self._thread.is_alive():
            log.warning("thread_still_alive", thread=self._name, seconds=JOIN_SECONDS)

    def _post(self, result: "Future[Any]", action: Callable[[], None]) -> None:
        door = self._door
        if door is None or not self._run_soon(door, action):
            _fail(result, PeerUnreachable(f"{self._name} is not running"))

    def _run_soon(self, door: _Door, action: Callable[[], None]) -> bool:
        try:
            door.token.run_sync_soon(action)
        except trio.RunFinishedError:
            return False
        return True

    def _start_errand(
        self, errand: Callable[[T], Awaitable[R]], result: "Future[R]", scope: trio.CancelScope
    ) -> None:
        if self._door is None or self._resident is None:
            _fail(result, PeerUnreachable(f"{self._name} is starting"))
        elif result.set_running_or_notify_cancel():
            resident = self._resident
            self._door.nursery.start_soon(_run_errand, errand, resident, result, scope)

    def _keep_alive(self) -> None:
        _give_way()
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            error = self._run_once()
            if not self._started.done():
                self._started.set_exception(error)
            if self._is_stopping.is_set() or self._started.exception() is not None:
                return
            pause = FIRST_PAUSE_SECONDS if time.monotonic() - began > HEALTHY_SECONDS else pause
            log.error("thread_died", thread=self._name, error=repr(error), pause_seconds=pause)
            self._is_stopping.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _run_once(self) -> BaseException:
        """Run one world to its end; what it died of."""
        try:
            trio.run(self._world)
        except BaseException as error:  # carried to the caller or the log, out of the thread
            return _first_cause(error)
        finally:
            self._door = self._resident = None
            for result in tuple(self._errands):
                _fail(result, PeerUnreachable(f"{self._name} stopped"))
        return PeerUnreachable(f"{self._name} stopped")

    async def _world(self) -> None:
        async with trio.open_nursery() as nursery:
            self._door = _Door(trio.lowlevel.current_trio_token(), nursery)
            if not self._is_stopping.is_set():  # checked after the door opened: stop() may be late
                await self._live(self._move_in)
            nursery.cancel_scope.cancel()

    def _move_in(self, resident: T) -> None:
        self._resident = resident
        if not self._started.done():
            self._started.set_result(None)


async def _run_errand(
    errand: Callable[[T], Awaitable[R]], resident: T, result: "Future[R]", scope: trio.CancelScope
) -> None:
    try:
        with scope:
            value = await errand(resident)
            result.set_result(value)
    except Exception as error:  # carried across the thread
        _fail(result, error)
    finally:
        _fail(result, PeerUnreachable("the errand was cancelled"))


def _give_way() -> None:
    """Let the process's other threads go first, where threads have a priority of their own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _fail(result: "Future[Any]", error: BaseException) -> None:
    if not result.done():
        result.set_exception(error)


def _first_cause(error: BaseException) -> BaseException:
    """The first error that is no group: trio wraps what a nursery's child raised."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return _first_cause(cast("BaseException", error.exceptions[0]))
