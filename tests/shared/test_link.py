"""Links over real WebSockets: order, bounds, ends; and the pool that keeps one per peer."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from shared.errors import HandshakeError, PeerUnreachable
from shared.identity import Identity
from shared.swarm import PeerId
from shared.wire import link as link_module
from shared.wire.bundle import frames_of
from shared.wire.codec import Frame, encode
from shared.wire.handshake import Handshake
from shared.wire.link import Link, LinkPool, shake_hands
from shared.wire.messages import Close, Hello, Message, Proof

ANN, BOB, EVE = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
NOWHERE = "ws://127.0.0.1:1"


def message(number: int) -> Close:
    return Close(number.to_bytes(16, "little"))


def number_of(message: Message) -> int:
    assert isinstance(message, Close)
    return int.from_bytes(message.session, "little")


class Peer:
    """A pool that remembers what happened to it, listening on `url`."""

    def __init__(self, identity: Identity, swarm: str = "home") -> None:
        self.id = identity.peer
        self.url = ""
        self.joined: list[PeerId] = []
        self.lost: list[PeerId] = []
        self.frames: asyncio.Queue[tuple[PeerId, Frame]] = asyncio.Queue()
        self.pool = LinkPool(
            identity,
            swarm,
            on_frame=lambda link, frame: self.frames.put_nowait((link.peer, frame)),
            on_joined=lambda link: self.joined.append(link.peer),
            on_lost=self.lost.append,
        )

    async def hears(self) -> tuple[PeerId, int]:
        peer, frame = await self.frames.get()
        return peer, number_of(frame.message)


@asynccontextmanager
async def peers(*identities: Identity, swarm: str = "home") -> AsyncIterator[list[Peer]]:
    """Listening peers, closed at the end."""
    async with AsyncExitStack() as stack:
        made: list[Peer] = []
        for identity in identities:
            peer = Peer(identity, swarm)
            server = await peer.pool.listen("127.0.0.1", 0)
            await stack.enter_async_context(server)
            peer.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            stack.push_async_callback(peer.pool.close)
            made.append(peer)
        yield made


@asynccontextmanager
async def stub(answer: Callable[[ServerConnection], object]) -> AsyncIterator[str]:
    """The address of a server that treats its callers as `answer` does."""
    async with serve(answer, "127.0.0.1", 0) as server:  # type: ignore[arg-type]
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def raw(url: str, identity: Identity, expected: PeerId) -> ClientConnection:
    """A proven WebSocket without a Link on it."""
    socket = await connect(url, proxy=None, compression=None, ping_interval=None)
    handshake = Handshake(identity, "home", "dialler", nonce=os.urandom(32), expected=expected)
    await shake_hands(socket, handshake)
    return socket


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not claim():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_frames_go_both_ways_over_one_link():
    async with peers(ANN, BOB) as (ann, bob):
        link = await ann.pool.connect(bob.id, bob.url)
        link.post(message(1), b"payload")
        peer, frame = await bob.frames.get()
        assert (peer, number_of(frame.message), bytes(frame.payload)) == (ann.id, 1, b"payload")
        back = bob.pool.get(ann.id)
        assert back is not None
        back.post(message(2))
        assert await ann.hears() == (bob.id, 2)
        assert (ann.joined, bob.joined) == ([bob.id], [ann.id])


async def test_a_link_knows_its_delay_soon_and_its_rate_after_a_large_frame():
    async with peers(ANN, BOB) as (ann, bob):
        link = await ann.pool.connect(bob.id, bob.url)
        await until(lambda: link.quality.delay_seconds)
        assert link.quality.bytes_per_second == 0

        def is_measured() -> bool:
            link.post(message(1), bytes(8 << 20))
            return link.quality.bytes_per_second > 0

        await until(is_measured)


async def test_the_order_of_posts_is_the_order_of_arrival():
    async with peers(ANN, BOB) as (ann, bob):
        link = await ann.pool.connect(bob.id, bob.url)
        for number in range(200):
            link.post(message(number), bytes(number * 100))
        assert [(await bob.hears())[1] for _ in range(200)] == list(range(200))


async def test_what_is_posted_in_one_turn_goes_in_one_message(monkeypatch: pytest.MonkeyPatch):
    messages: list[bytes] = []

    def seen(message: bytes) -> Iterator[bytes]:
        messages.append(message)
        return frames_of(message)

    async with peers(ANN, BOB) as (ann, bob):
        link = await ann.pool.connect(bob.id, bob.url)
        monkeypatch.setattr(link_module, "frames_of", seen)
        for number in range(50):
            link.post(message(number))
        assert [(await bob.hears())[1] for _ in range(50)] == list(range(50))
        assert len(messages) == 1


async def test_however_many_ask_a_peer_is_dialled_once():
    async with peers(ANN, BOB) as (ann, bob):
        links = await asyncio.gather(*(ann.pool.connect(bob.id, bob.url) for _ in range(9)))
        assert len(set(map(id, links))) == 1
        assert await ann.pool.connect(bob.id, NOWHERE) is links[0]
        assert bob.joined == [ann.id]
        assert ann.pool.open_links() == [links[0]]


async def test_a_cancelled_caller_does_not_fail_the_others():
    async with peers(ANN, BOB) as (ann, bob):
        first, second = (asyncio.create_task(ann.pool.connect(bob.id, bob.url)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).is_open
        assert first.cancelled()


async def test_a_failed_dial_may_be_tried_again():
    async with peers(ANN, BOB) as (ann, bob):
        failures = await asyncio.gather(
            *(ann.pool.connect(bob.id, NOWHERE) for _ in range(2)), return_exceptions=True
        )
        assert [type(failure) for failure in failures] == [PeerUnreachable] * 2
        assert (await ann.pool.connect(bob.id, bob.url)).is_open


@pytest.mark.parametrize(
    "url",
    ["", "http://h", "ws://", "ws://h:99999", "ws://[::1", f"ws://{'a' * 64}.b", "ws://a\0b"],
)
async def test_an_address_that_is_none_makes_a_peer_unreachable(url: str):
    pool = Peer(ANN).pool
    with pytest.raises(PeerUnreachable):
        await pool.connect(BOB.peer, url)
    await pool.close()


async def test_who_answers_in_another_s_place_is_not_talked_to():
    async with peers(ANN, EVE) as (ann, eve):
        with pytest.raises(PeerUnreachable, match="dialled"):
            await ann.pool.connect(BOB.peer, eve.url)
        await until(lambda: not eve.pool.open_links())
        assert eve.joined == []


@pytest.mark.parametrize("swarm", ["work", "ж" * 128])
async def test_another_swarm_s_peer_hears_why_it_is_refused(swarm: str):
    """Names may be longer than a close frame has room for."""
    async with peers(ANN) as (ann,), peers(BOB, swarm=swarm) as (bob,):
        with pytest.raises(PeerUnreachable, match="swarm"):
            await ann.pool.connect(bob.id, bob.url)
        with pytest.raises(PeerUnreachable, match="swarm"):
            await bob.pool.connect(ann.id, ann.url)


async def test_a_dialled_peer_with_a_long_foreign_name_is_unreachable_and_no_more():
    async def answer(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(encode(Hello(PeerId("ж" * 128), "home", bytes(32))))
        await socket.wait_closed()

    async with stub(answer) as url:
        with pytest.raises(PeerUnreachable, match="answered"):
            await Peer(ANN).pool.connect(BOB.peer, url)


async def test_silence_during_the_handshake_times_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link_module, "HANDSHAKE_SECONDS", 0.05)
    async with peers(ANN) as (ann,):
        socket = await connect(ann.url, proxy=None)
        with pytest.raises(ConnectionClosed, match="no handshake within"):
            await socket.recv()

    async with stub(ServerConnection.wait_closed) as url:
        with pytest.raises(PeerUnreachable, match="no handshake within"):
            await Peer(ANN).pool.connect(BOB.peer, url)


@pytest.mark.parametrize(
    "data",
    ["text", b"", b"\xff" * 9, encode(Close(bytes(16))), encode(Proof(bytes(64))), bytes(9999)],
)
async def test_what_is_no_handshake_is_refused_as_policy(data: str | bytes):
    async with peers(ANN) as (ann,):
        socket = await connect(ann.url, proxy=None)
        await socket.send(data)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert ann.joined == ann.lost == []


async def test_a_peer_that_hangs_up_during_the_handshake_has_failed_it():
    async def answer(socket: ServerConnection) -> None:
        await socket.close()

    async with stub(answer) as url:
        socket = await connect(url, proxy=None)
        handshake = Handshake(ANN, "home", "dialler", nonce=bytes(32))
        with pytest.raises(HandshakeError, match="closed during"):
            await shake_hands(socket, handshake)
        await socket.close()


@pytest.mark.parametrize("data", ["text", b"", b"\xff" * 9, b"\x01\x00\x00\x00\xc1"])
async def test_a_peer_that_breaks_the_protocol_is_cut_off_with_1002(data: str | bytes):
    async with peers(ANN, BOB) as (ann, bob):
        healthy = await bob.pool.connect(ann.id, ann.url)
        socket = await raw(ann.url, EVE, ann.id)
        await socket.send(data)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1002
        await until(lambda: ann.lost == [EVE.peer])
        healthy.post(message(1))
        assert await ann.hears() == (bob.id, 1)


async def test_a_peer_is_lost_once_and_only_with_its_last_link():
    async with peers(ANN) as (ann,):
        first, second = [await raw(ann.url, BOB, ann.id) for _ in range(2)]
        await until(lambda: len(ann.joined) == 2)
        await second.close()
        await asyncio.sleep(0.05)
        assert ann.lost == []
        assert ann.pool.get(BOB.peer) is not None
        await first.close()
        await until(lambda: ann.lost)
        await asyncio.sleep(0.05)
        assert ann.lost == [BOB.peer]
        assert ann.pool.get(BOB.peer) is None


async def test_the_newest_open_link_is_used():
    async with peers(ANN) as (ann,):
        sockets = [await raw(ann.url, BOB, ann.id) for _ in range(2)]
        await until(lambda: len(ann.joined) == 2)
        link = ann.pool.get(BOB.peer)
        assert link is not None
        link.post(message(1))
        await asyncio.wait_for(sockets[1].recv(), 5)
        for socket in sockets:
            await socket.close()


async def test_posting_to_a_closed_link_says_so():
    async with peers(ANN, BOB) as (ann, bob):
        link = await ann.pool.connect(bob.id, bob.url)
        await link.close()
        with pytest.raises(PeerUnreachable, match="closed"):
            link.post(message(1))
        assert ann.pool.get(bob.id) is None
        await until(lambda: ann.lost == [bob.id] and bob.lost == [ann.id])
        assert (await ann.pool.connect(bob.id, bob.url)).is_open


async def test_a_peer_that_reads_nothing_costs_bounded_memory_and_is_lost(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(link_module, "MAX_UNSENT_BYTES", 16 << 20)
    monkeypatch.setattr(link_module, "CLOSE_SECONDS", 0.05)
    async with peers(ANN) as (ann,):
        socket = await raw(ann.url, BOB, ann.id)
        await until(lambda: ann.joined)
        socket.transport.pause_reading()
        link = ann.pool.get(BOB.peer)
        assert link is not None
        for number in range(15):
            link.post(message(number), bytes(1 << 20))
        with pytest.raises(PeerUnreachable, match="bytes unread"):
            link.post(message(15), bytes(1 << 20))
        await until(lambda: ann.lost == [BOB.peer])
        socket.transport.abort()


async def test_a_peer_that_reads_nothing_is_lost_even_while_little_waits(
    monkeypatch: pytest.MonkeyPatch,
):
    """A ping would wait behind what cannot be sent."""
    monkeypatch.setattr(link_module, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(link_module, "CLOSE_SECONDS", 0.05)
    async with peers(ANN) as (ann,):
        socket = await raw(ann.url, BOB, ann.id)
        await until(lambda: ann.joined)
        socket.transport.pause_reading()
        link = ann.pool.get(BOB.peer)
        assert link is not None
        link.post(message(1), bytes(16 << 20))
        await until(lambda: ann.lost == [BOB.peer])
        socket.transport.abort()


async def test_closing_does_not_wait_for_a_peer_that_reads_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link_module, "CLOSE_SECONDS", 0.05)
    async with peers(ANN) as (ann,):
        socket = await raw(ann.url, BOB, ann.id)
        await until(lambda: ann.joined)
        socket.transport.pause_reading()
        link = ann.pool.get(BOB.peer)
        assert link is not None
        link.post(message(1), bytes(16 << 20))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(2):
            await ann.pool.close()
        await until(lambda: ann.lost)
        socket.transport.abort()


async def test_closing_the_pool_ends_dials_too_and_dials_no_more():
    async with stub(ServerConnection.wait_closed) as url:
        ann = Peer(ANN)
        dial = asyncio.create_task(ann.pool.connect(BOB.peer, url))
        await asyncio.sleep(0.05)  # it is in the handshake by now
        await ann.pool.close()
        with pytest.raises(PeerUnreachable, match="being closed"):
            await dial
        with pytest.raises(PeerUnreachable, match="being closed"):
            await ann.pool.connect(BOB.peer, url)
        assert ann.joined == ann.lost == []


async def test_closing_leaves_no_task_and_no_open_transport_behind():
    async with peers(ANN, BOB) as (ann, bob):
        await ann.pool.connect(bob.id, bob.url)
        await bob.pool.close()
        await ann.pool.close()
        await until(lambda: ann.lost and bob.lost)
    await until(lambda: len(asyncio.all_tasks()) == 1)
    gc.collect()  # an open transport would warn


async def test_a_link_whose_frames_cannot_be_handled_ends_and_the_pool_goes_on():
    def fail(link: Link, frame: Frame) -> None:
        raise RuntimeError("a bug")

    async with peers(ANN, BOB) as (ann, bob):
        ann.pool._on_frame = fail
        link = await bob.pool.connect(ann.id, ann.url)
        link.post(message(1))
        await until(lambda: ann.lost == [bob.id] and bob.lost == [ann.id])
        assert (await bob.pool.connect(ann.id, ann.url)).is_open


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
async def test_in_a_public_swarm_no_announcement_has_us_knock_at_our_own_doors(host: str):
    """Not by a name either: what it resolves to counts."""
    async with peers(BOB) as (bob,):
        ann = Peer(ANN)
        ann.pool._reach = "public"
        with pytest.raises(PeerUnreachable, match="no public address"):
            await ann.pool.connect(bob.id, bob.url.replace("127.0.0.1", host))
        ann.pool._reach = "loopback"
        assert (await ann.pool.connect(bob.id, bob.url)).is_open
        await ann.pool.close()
