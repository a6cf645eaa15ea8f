"""The HTTP response that carries a stream's frames, and what ends it early."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, Protocol

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from gateway.alarm import Alarm
from gateway.api.body import unless_gone
from gateway.api.short_way import short_way
from gateway.services import Services
from shared.errors import GenerationFailed

SEND_TIMEOUT_SECONDS: Final = 60.0
"""A client that reads nothing for this long is gone."""

FAREWELL_SECONDS: Final = 2.0
"""For the error frame to go out after the grace period."""

KEEP_ALIVE: Final = ServerSentEvent(comment="keep-alive", sep="\n")


class _Bare(ServerSentEvent):
    """A comment that no blank line follows, see gateway.api.sse; the event behind it has one."""

    def encode(self) -> bytes:
        return super().encode().removesuffix(b"\n")


BARE_KEEP_ALIVE: Final = _Bare(comment="keep-alive", sep="\n")


class Running(Protocol):
    """Whatever makes what a stream tells."""

    async def begin(self, seconds: float) -> None:
        """Wait for the first token, but no longer than `seconds`; raises what failed before it."""
        ...

    def interrupt(self, failure: GenerationFailed) -> None:
        """End it as if it had failed."""
        ...

    async def close(self) -> None:
        """End it, and wait until all it held is freed."""
        ...


async def held_stream(
    services: Services,
    request: Request,
    running: Running,
    frames: AsyncGenerator[bytes, None],
    *,
    headers: dict[str, str],
    has_ids: bool = False,
) -> "EventStream":
    """Hold the 200 until there is a token, so that failures before it keep their status."""
    try:
        await unless_gone(request, running.begin(services.hold_seconds))
    except BaseException:
        await running.close()
        raise
    return EventStream(
        frames,
        running,
        headers=headers,
        has_ids=has_ids,
        keep_alive_seconds=services.keep_alive_seconds,
        grace_seconds=services.shutdown_grace_seconds,
    )


class EventStream(EventSourceResponse):
    """Sends frames with keep-alives between; closes what makes them however it ends."""

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        running: Running,
        *,
        headers: dict[str, str],
        keep_alive_seconds: float,
        has_ids: bool = False,
        grace_seconds: float,
    ) -> None:
        self._running = running
        self._grace_seconds = grace_seconds
        self._is_stopping = anyio.Event()
        self._task: asyncio.Task[object] | None = None
        self._short_way: Send | None = None
        self._is_sending = False
        self._is_stuck = False
        self._alarm = Alarm(self._give_up)
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            frames,
            headers=headers,
            ping=keep_alive_seconds,
            ping_message_factory=lambda: BARE_KEEP_ALIVE if has_ids else KEEP_ALIVE,
            sep="\n",
            send_timeout=SEND_TIMEOUT_SECONDS,
            shutdown_event=self._is_stopping,
            shutdown_grace_period=grace_seconds + FAREWELL_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. Without the farewell a stopped server looks like a finished answer."""
        self._task, self._short_way = asyncio.current_task(), short_way(scope)
        farewell = asyncio.create_task(self._say_farewell())
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            if self._is_stuck and self._task and not self._task.uncancel():
                raise SendTimeoutError from None
            raise
        finally:
            farewell.cancel()
            self._alarm.close()
            await self._running.close()

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        """In the place of the library's, which does the same with a scope and a timer each time."""
        send = self._short_way or send
        if self._is_sending:  # a keep-alive behind a frame, or the other way round
            return await send(message)
        self._is_sending = True
        self._alarm.set(SEND_TIMEOUT_SECONDS)
        try:
            await send(message)
        finally:
            self._is_sending = False
            self._alarm.stop()

    def _give_up(self) -> None:
        """A send takes too long."""
        if self._task:
            self._is_stuck = True
            self._task.cancel()

    async def _say_farewell(self) -> None:
        await self._is_stopping.wait()
        await asyncio.sleep(self._grace_seconds)
        self._running.interrupt(GenerationFailed("server_shutdown", "The server is shutting down."))
