"""The pieces of a stream go past the middlewares; its beginning and its end do not."""

from collections.abc import AsyncGenerator

import httpx
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.event_stream import EventStream
from gateway.api.short_way import App
from shared.errors import GenerationFailed


class Nothing:
    """What makes no frames of its own."""

    async def begin(self, seconds: float) -> None: ...

    def interrupt(self, failure: GenerationFailed) -> None: ...

    async def close(self) -> None: ...


class Looking:
    """A middleware that notes what passes through it, and names itself in the answer."""

    def __init__(self, app: ASGIApp, seen: list[Message]) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_noted(message: Message) -> None:
            self._seen.append(message)
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-looked", b"yes")]
            await send(message)

        await self._app(scope, receive, send_noted)


async def test_only_the_beginning_and_the_end_of_a_stream_pass_through_middlewares():
    seen: list[Message] = []
    app = App(middleware=[Middleware(Looking, seen=seen)])

    async def frames() -> AsyncGenerator[bytes, None]:
        for number in range(3):
            yield b"data: %d\n\n" % number

    async def stream(request: Request) -> EventStream:
        return EventStream(frames(), Nothing(), headers={}, keep_alive_seconds=9, grace_seconds=0)

    app.add_route("/", stream)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/")
    assert answer.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert answer.headers["x-looked"] == "yes"
    assert [(message["type"], message.get("more_body")) for message in seen] == [
        ("http.response.start", None),
        ("http.response.body", False),
    ]
