"""Runs Python code that may take too long in a thread, and ends it there when it does."""

import asyncio
import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Overdue(BaseException):
    """Raised in the midst of code whose time is over; no `except Exception` keeps it."""


async def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`, which runs in a thread of its own. Raises TimeoutError.

    Its thread is its own, because the end of its time may come when it is just over: nobody else's
    work must be hit then. Only Python code can be ended; what runs in a library's runs on.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    thread = threading.Thread(target=_run, args=(work, loop, outcome), daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(outcome)
    finally:
        if thread.is_alive() and not outcome.done():
            _end(thread)
        outcome.cancel()


def _run(
    work: Callable[[], T], loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[T]
) -> None:
    try:
        result = work()
    except Overdue:
        return
    except BaseException as error:
        _tell(loop, outcome, error=error)
    else:
        _tell(loop, outcome, result)


def _tell(
    loop: asyncio.AbstractEventLoop,
    outcome: asyncio.Future[T],
    result: T | None = None,
    *,
    error: BaseException | None = None,
) -> None:
    def tell() -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # pyright: ignore[reportArgumentType]

    loop.call_soon_threadsafe(tell)


def _end(thread: threading.Thread) -> None:
    # https://docs.python.org/3/c-api/init.html#c.PyThreadState_SetAsyncExc
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(Overdue)
    )
