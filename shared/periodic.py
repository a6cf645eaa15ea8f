"""What a process does again and again."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()


async def every(
    seconds: float, act: Callable[[], Awaitable[None]], *, at_once: bool = False
) -> None:
    """Do something again and again, a while after the last time, whatever becomes of it."""
    if not at_once:
        await asyncio.sleep(seconds)
    while True:
        try:
            await act()
        except Exception:  # a heartbeat must outlive one bad beat
            log.exception("beat_failed")
        await asyncio.sleep(seconds)
