"""A worker without a model: real links and real messages, its answers scripted."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.server import serve

from shared.discovery.directory import MemoryDirectory
from shared.identity import Identity
from shared.records import sign_announcement
from shared.swarm import Announcement, Hop, ModelSpec, Span
from shared.wire.codec import Frame
from shared.wire.link import SERVER_OPTIONS, Link, LinkPool
from shared.wire.messages import Close, Filled, Message, Status, Step, Tokens

SPEC = ModelSpec("toy", "r1", 4, hidden_size=2, vocab_size=1000, max_positions=512)
SWARM = "tests"

Script = Callable[["ScriptedWorker", Step], list[tuple[Message, bytes]]]


def count_up(worker: "ScriptedWorker", step: Step) -> list[tuple[Message, bytes]]:
    """The token of position p is p: right whatever the route."""
    if not step.sample:
        return []
    position = step.sample[0] + 1
    return [(Tokens(step.session, step.epoch, position, (position,)), b"")]


class ScriptedWorker:
    """Hosts `span` of the toy model and answers steps as its script says."""

    def __init__(self, span: Span, script: Script = count_up) -> None:
        self.identity = Identity.create()
        self.peer = self.identity.peer
        self.span = span
        self.script = script
        self.steps: list[Step] = []
        self.closed: list[bytes] = []
        self.url = ""
        self.pool = LinkPool(
            self.identity, SWARM, on_frame=self._on_frame, on_joined=lambda link: None
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["ScriptedWorker"]:
        """Listen on any free port."""
        async with serve(self.pool.accept, "127.0.0.1", 0, **SERVER_OPTIONS) as server:
            self.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            yield self
            await self.pool.close()

    async def announce(self, directory: MemoryDirectory, **changes: object) -> None:
        """Tell the directory of this worker."""
        fields: dict[str, object] = {
            "worker": self.peer,
            "swarm": SWARM,
            "model": SPEC.name,
            "revision": SPEC.revision,
            "span": self.span,
            "num_blocks": SPEC.num_blocks,
            "url": self.url,
            "dtype": "float32",
            "sequence": time.time_ns(),
            "issued_at": time.time(),
            "lease_seconds": 60,
        }
        announcement = Announcement(**{**fields, **changes})  # type: ignore[arg-type]
        await directory.announce(announcement.topic, sign_announcement(self.identity, announcement))

    @property
    def hop(self) -> Hop:
        """All that it hosts."""
        return Hop(self.peer, self.span)

    def take(self, step: Step) -> None:
        """Answer a step to its gateway, whoever brings it."""
        self.steps.append(step)
        self.say(self.script(self, step))
        if step.acknowledge:
            end = step.position + step.count
            self.say([(Filled(step.session, step.epoch, self.span.end, end), b"")])

    def say(self, messages: list[tuple[Message, bytes]]) -> None:
        """Tell the gateway."""
        (link,) = self.pool.open_links()
        for message, payload in messages:
            link.post(message, payload)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        match frame.message:
            case Step() as step:
                self.take(step)
            case Close(session=session):
                self.closed.append(session)
            case _:
                link.post(Status(sessions=0, queued_steps=0, pages_free=1, pages_total=1))
