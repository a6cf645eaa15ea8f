"""What those can and cannot do who dial a gateway: real sockets, hostile peers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway import dial_back as dial_back_module
from gateway import links as links_module
from gateway import relays as relays_module
from gateway.attach import AttachPort
from gateway.dial_back import BURST_PER_ADDRESS
from gateway.inbox import FrameArrived
from gateway.links import Links
from gateway.metrics import GatewayMetrics
from shared.dial_back import DialBacks
from shared.discovery.directory import MemoryDirectory
from shared.discovery.watcher import Watcher
from shared.errors import ConfigError, PeerUnreachable
from shared.identity import Identity
from shared.records import open_record, sign_announcement
from shared.secret import SwarmSecret
from shared.swarm import Announcement, PeerId, SessionId, Span, gateways_topic, topic_of
from shared.wire import bounds
from shared.wire import link as link_module
from shared.wire.certificate import Certificate
from shared.wire.codec import Frame, encode
from shared.wire.link import LinkPool
from shared.wire.messages import (
    Close,
    DialBack,
    DialledBack,
    DialOutcome,
    Message,
    Refused,
    Relay,
)
from tests.scripted_worker import SPEC, SWARM

SESSION = SessionId(b"s" * 16)
TOPIC = topic_of(SWARM, SPEC.name, SPEC.revision)


class Caller:
    """Somebody who dials a gateway, and remembers what comes of it."""

    def __init__(self, identity: Identity | None = None, secret: SwarmSecret | None = None) -> None:
        self.identity = identity or Identity.create()
        self.peer = self.identity.peer
        self.relays: list[tuple[Relay, bytes]] = []
        self.pool = LinkPool(self.identity, SWARM, on_frame=self._hear, secret=secret)
        self.dial_backs = DialBacks(self.pool)

    def _hear(self, link: object, frame: Frame) -> None:
        match frame.message:
            case Relay() as relay:
                self.relays.append((relay, bytes(frame.payload)))
            case DialledBack() as answer:
                self.dial_backs.heard(PeerId(link.peer), answer)  # type: ignore[attr-defined]
            case _:
                pass

    def announcement(self, url: str, **changes: object) -> Announcement:
        """What it announces of itself."""
        fields: dict[str, object] = {
            "worker": self.peer,
            "swarm": SWARM,
            "model": SPEC.name,
            "revision": SPEC.revision,
            "span": Span(0, 4),
            "num_blocks": SPEC.num_blocks,
            "url": url,
            "dtype": "float32",
            "sequence": time.time_ns(),
            "issued_at": time.time(),
            "lease_seconds": 60,
        }
        return Announcement(**{**fields, **changes})  # type: ignore[arg-type]

    def record(self, url: str, **changes: object) -> bytes:
        return sign_announcement(self.identity, self.announcement(url, **changes))


class Gateway:
    """Links that take attachments, and where to dial them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.identity = Identity.create()
        self.directory = MemoryDirectory(time.monotonic)
        self.watcher = Watcher(self.directory, TOPIC, poll_seconds=0.05)
        self.metrics = GatewayMetrics()
        self.at: Announcement

    async def open(
        self, certificate: Certificate | None = None, secret: SwarmSecret | None = None
    ) -> None:
        self.port = AttachPort("127.0.0.1", 0, certificate=certificate)
        self.links = Links(
            self.identity,
            SWARM,
            self.watcher,
            doors=self.port.doors,
            certificate=self.port.fingerprint,
            metrics=self.metrics,
            secret=secret,
        )
        self.stack.push_async_callback(self.links.close)
        opened = self.port.open(self.identity, self.directory, [SPEC], [self.links])
        await self.stack.enter_async_context(opened)
        found = Watcher(self.directory, gateways_topic(TOPIC))
        while self.identity.peer not in found.view:
            await asyncio.sleep(0)
            await found.refresh()
        self.at = found.view[self.identity.peer]

    async def met(self, caller: Caller) -> Caller:
        """A caller that has a link, closed at the end."""
        self.stack.push_async_callback(caller.pool.close)
        await caller.pool.connect(self.identity.peer, self.at.url, self.at.certificate)
        await until(lambda: caller.peer in self.links.linked())
        return caller

    async def attached(self) -> Caller:
        """A caller that is a worker of the view."""
        caller = await self.met(Caller())
        record = caller.record("", attached=(self.identity.peer,))
        await self.directory.announce(TOPIC, record)
        await self.watcher.refresh()
        return caller

    def tell(self, caller: Caller, message: Message, payload: bytes = b"") -> None:
        link = caller.pool.get(self.identity.peer)
        assert link is not None
        link.post(message, payload)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        made = Gateway(stack)
        await made.open()
        yield made


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not claim():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def pair(gateway: Gateway) -> tuple[Caller, Caller]:
    """Two workers that run one session."""
    ann, bob = await gateway.attached(), await gateway.attached()
    gateway.inbox = gateway.links.open_inbox(SESSION)  # type: ignore[attr-defined]
    gateway.links.surveyor.engaged(SESSION, {ann.peer, bob.peer})
    return ann, bob


async def settle(gateway: Gateway, caller: Caller) -> None:
    """Returns once the gateway has read what the caller has sent so far."""
    link = caller.pool.get(gateway.identity.peer)
    assert link is not None
    assert await link.answers(5)
    await asyncio.sleep(0.02)


async def test_a_frame_is_passed_on_as_it_is_and_its_sender_is_who_sent_it(gateway: Gateway):
    ann, bob = await pair(gateway)
    gateway.tell(ann, Relay(SESSION, 3, bob.peer), b"not looked into")
    await until(lambda: bob.relays)
    assert bob.relays == [(Relay(SESSION, 3, ann.peer), b"not looked into")]
    assert gateway.metrics.relayed_bytes._value.get() == len(b"not looked into")


async def test_nothing_is_passed_on_to_or_from_one_who_has_no_part_in_the_session(
    gateway: Gateway,
):
    ann, bob = await pair(gateway)
    eve = await gateway.attached()
    gateway.tell(eve, Relay(SESSION, 1, bob.peer), b"from a stranger")
    gateway.tell(ann, Relay(SESSION, 1, eve.peer), b"to a stranger")
    gateway.tell(ann, Relay(b"x" * 16, 1, bob.peer), b"of no session")
    gateway.tell(ann, Relay(SESSION, 1, ann.peer), b"to myself")
    for caller in (ann, eve):
        await settle(gateway, caller)
    gateway.tell(ann, Relay(SESSION, 1, bob.peer), b"last")
    await until(lambda: bob.relays)
    assert [payload for _, payload in bob.relays] == [b"last"]
    assert (ann.relays, eve.relays) == ([], [])


async def test_of_one_who_is_gone_the_session_hears_at_once(gateway: Gateway):
    ann, bob = await pair(gateway)
    await bob.pool.close()
    await until(lambda: bob.peer not in gateway.links.linked())
    gateway.tell(ann, Relay(SESSION, 3, bob.peer), b"frame")
    refused = await refusal(gateway)
    assert (refused.worker, refused.lost, refused.epoch) == (ann.peer, bob.peer, 3)
    assert "not attached" in refused.detail


async def refusal(gateway: Gateway) -> Refused:
    async with asyncio.timeout(5):
        while True:
            event = await gateway.inbox.get(5)  # type: ignore[attr-defined]
            if isinstance(event, FrameArrived):
                message = event.frame.message
                assert isinstance(message, Refused)
                assert message.reason == "next_unreachable"
                return message


async def test_one_who_reads_nothing_fills_no_memory_and_its_session_hears_of_it(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(relays_module, "MAX_WAITING_BYTES", 4 << 20)
    ann, bob = await pair(gateway)
    stalled = bob.pool.get(gateway.identity.peer)
    assert stalled is not None
    stalled._socket.transport.pause_reading()
    for _ in range(64):
        gateway.tell(ann, Relay(SESSION, 1, bob.peer), bytes(1 << 20))
    refused = await refusal(gateway)
    assert "bytes unread" in refused.detail
    towards = gateway.links._pool.get(bob.peer)
    assert towards is not None
    assert towards.unsent_bytes <= 4 << 20


async def test_a_frame_too_large_to_be_passed_on_is_refused_and_breaks_nothing(gateway: Gateway):
    ann, bob = await pair(gateway)
    largest = (64 << 20) - len(encode(Relay(SESSION, 1, PeerId("b"))))
    gateway.tell(ann, Relay(SESSION, 1, PeerId(bob.peer)), bytes(largest - 60))
    refused = await refusal(gateway) if not await arrives(bob) else None
    assert refused is None or "over" in refused.detail
    gateway.tell(ann, Relay(SESSION, 1, bob.peer), b"small")
    await until(lambda: bob.relays and bob.relays[-1][1] == b"small")


async def arrives(caller: Caller) -> bool:
    try:
        await until(lambda: caller.relays)
    except TimeoutError:
        return False
    return True


async def test_a_flood_is_read_no_faster_than_one_may_send_and_others_do_not_wait(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bounds, "BURST_FRAMES", 0.0)
    monkeypatch.setattr(bounds, "FRAMES_PER_SECOND", 1280.0)  # 10 MiB of relays
    ann, bob = await pair(gateway)
    cyd = await gateway.attached()
    gateway.links.surveyor.engaged(SESSION, {ann.peer, bob.peer, cyd.peer})
    began = time.monotonic()
    for _ in range(8):
        gateway.tell(ann, Relay(SESSION, 1, bob.peer), bytes(1 << 20))
    gateway.tell(cyd, Relay(SESSION, 1, ann.peer), b"x")
    await until(lambda: ann.relays)
    assert time.monotonic() - began < 0.6
    await until(lambda: len(bob.relays) == 8)
    assert time.monotonic() - began > 0.7


# --- dial-back ---------------------------------------------------------------------------------


async def listening(gateway: Gateway, caller: Caller) -> str:
    server = await caller.pool.listen("127.0.0.1", 0)
    gateway.stack.callback(server.close)
    return f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def ask(gateway: Gateway, caller: Caller, url: str) -> DialOutcome | None:
    answer = await caller.dial_backs.ask(gateway.at, caller.record(url))
    assert answer is None or answer.seen_at == "127.0.0.1"
    return answer.outcome if answer else None


async def test_one_who_can_be_dialled_is_told_so(gateway: Gateway):
    ann = await gateway.met(Caller())
    assert await ask(gateway, ann, await listening(gateway, ann)) == "reached"
    assert ann.peer in gateway.links.linked()


async def test_whatever_listens_there_a_dial_in_vain_takes_as_long(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
):
    """Neither by the answer nor by its time does anybody learn which ports are open."""
    monkeypatch.setattr(dial_back_module, "DIAL_SECONDS", 0.6)
    ann, bob = await gateway.met(Caller()), Caller()
    other = await listening(gateway, bob)
    met: list[asyncio.StreamWriter] = []
    speechless = await asyncio.start_server(lambda _, writer: met.append(writer), "127.0.0.1", 0)
    async with speechless:
        port = speechless.sockets[0].getsockname()[1]
        for url in ("ws://127.0.0.1:1", other, f"ws://127.0.0.1:{port}"):
            began = time.monotonic()
            assert await ask(gateway, ann, url) == "unreached"
            assert 0.55 < time.monotonic() - began < 2
        assert len(met) == 1
        met[0].close()
    await bob.pool.close()


async def test_nobody_is_dialled_but_at_the_address_that_the_asker_comes_from(gateway: Gateway):
    met: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda reader, writer: met.append(writer), "127.0.0.2", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        ann = await gateway.met(Caller())
        for host in ("127.0.0.2", "10.0.0.1", "192.0.2.7"):
            assert await ask(gateway, ann, f"ws://{host}:{port}") == "elsewhere"
    assert met == []


@pytest.mark.parametrize(
    "made",
    [
        lambda ann, bob: bob.record("ws://127.0.0.1:7"),
        lambda ann, bob: ann.record("ws://127.0.0.1:7", swarm="another"),
        lambda ann, bob: ann.record("", attached=(bob.peer,)),
        lambda ann, bob: ann.record("ws://127.0.0.1:7")[:-1] + b"x",
        lambda ann, bob: b"rubbish",
    ],
    ids=["of another", "of another swarm", "without an address", "forged", "rubbish"],
)
async def test_who_asks_for_what_is_not_theirs_loses_its_link(
    gateway: Gateway, made: Callable[[Caller, Caller], bytes]
):
    ann = await gateway.met(Caller())
    gateway.tell(ann, DialBack(made(ann, Caller())))
    await until(lambda: ann.peer not in gateway.links.linked())


async def test_who_asks_too_often_is_not_answered(gateway: Gateway):
    ann = await gateway.met(Caller())
    url = await listening(gateway, ann)
    outcomes = [await ask(gateway, ann, url) for _ in range(BURST_PER_ADDRESS + 2)]
    assert outcomes.count("reached") == BURST_PER_ADDRESS
    bob = await gateway.met(Caller())  # of the same address
    assert await ask(gateway, bob, url) == "busy"


# --- the port ----------------------------------------------------------------------------------


async def test_idle_strangers_make_room_for_workers(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(links_module, "STRANGER_SECONDS", 0.3)
    monkeypatch.setattr(links_module, "AVOID_SECONDS", 0.1)
    gateway.port.doors._per_address = 4
    ann = await gateway.attached()
    for _ in range(3):
        await gateway.met(Caller())
    with pytest.raises(PeerUnreachable, match="4 links here"):
        await gateway.met(Caller())
    keeping = asyncio.create_task(gateway.links.keep_linked())
    await until(lambda: gateway.links.linked() == {ann.peer})
    await until(lambda: gateway.port.doors._open.total() == 1)
    bob = await gateway.attached()
    await asyncio.sleep(0.5)
    keeping.cancel()
    assert gateway.links.attached() == {ann.peer, bob.peer}


async def test_strangers_do_not_count_as_workers_in_any_plan(gateway: Gateway):
    eve = await gateway.met(Caller())
    link = gateway.links._pool.get(eve.peer)
    assert link is not None
    await until(lambda: link.quality.delay_seconds is not None)
    assert gateway.links.survey().delays == {}
    assert gateway.links.attached() == set()


async def test_a_port_says_what_it_is_for_and_takes_links_of_its_models_only(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(link_module, "HANDSHAKE_SECONDS", 0.1)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(gateway.port.url.replace("ws:", "http:"))
    assert (answer.status_code, "attach" in answer.text) == (404, True)
    with pytest.raises(InvalidStatus):
        await connect(f"{gateway.port.url}/0123456789abcdef", proxy=None)
    with pytest.raises(ConnectionClosed):
        await (await connect(gateway.at.url, proxy=None)).recv()  # says nothing


async def test_workers_attach_under_the_announced_certificate_and_know_the_secret():
    async with AsyncExitStack() as stack:
        gateway, secret = Gateway(stack), SwarmSecret("a secret for a few", SWARM)
        await gateway.open(Certificate.create(), secret)
        assert gateway.at.url.startswith("wss:")
        await gateway.met(Caller(secret=secret))
        with pytest.raises(PeerUnreachable, match="private"):
            await gateway.met(Caller())
        other = Certificate.create().fingerprint
        with pytest.raises(PeerUnreachable, match="not the announced one"):
            await Caller(secret=secret).pool.connect(gateway.identity.peer, gateway.at.url, other)


async def test_a_port_that_is_taken_is_an_operator_s_mistake(gateway: Gateway):
    number = int(gateway.port.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match="--attach-port"):
        async with AttachPort("127.0.0.1", number).open(
            gateway.identity, gateway.directory, [SPEC], [gateway.links]
        ):
            pass


async def test_a_gateway_that_goes_says_so(gateway: Gateway):
    other = AttachPort("127.0.0.1", 0)
    async with other.open(gateway.identity, gateway.directory, [SPEC], [gateway.links]):
        pass
    (sighting,) = await gateway.directory.lookup(gateways_topic(TOPIC))
    assert open_record(sighting.record).leaving


async def test_what_was_said_of_a_session_ends_with_the_worker_s_link(gateway: Gateway):
    ann = await gateway.attached()
    gateway.links.open_inbox(SESSION)
    await ann.pool.close()
    await until(lambda: ann.peer not in gateway.links.linked())
    gateway.links.close_session(SESSION, [ann.peer], ())
    again = Caller(ann.identity)
    heard: list[Message] = []
    again.pool._on_frame = lambda link, frame: heard.append(frame.message)
    await gateway.met(again)
    await until(lambda: any(isinstance(message, Close) for message in heard))
