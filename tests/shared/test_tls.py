"""Links under TLS: the announced certificate and no other; nobody sits between."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect

from shared.errors import HandshakeError, PeerUnreachable
from shared.identity import Identity
from shared.wire.certificate import Certificate, pinning_context
from shared.wire.handshake import Handshake
from shared.wire.link import shake_hands
from tests.shared.test_link import ANN, BOB, Peer, message

OURS, THEIRS = Certificate.create(), Certificate.create()


@asynccontextmanager
async def tls_peer(identity: Identity, certificate: Certificate = OURS) -> AsyncIterator[Peer]:
    """A peer that takes links under TLS."""
    peer = Peer(identity)
    server = await peer.pool.listen("127.0.0.1", 0, certificate=certificate)
    peer.url = f"wss://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
    try:
        yield peer
    finally:
        await peer.pool.close()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def man_in_the_middle(url: str, certificate: Certificate) -> AsyncIterator[str]:
    """The address of one who ends TLS with another certificate and passes everything on."""
    port, sessions = urlsplit(url).port, set[asyncio.Task[None]]()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", port, ssl=pinning_context())
        sessions.update(
            {
                asyncio.create_task(pipe(reader, onward[1])),
                asyncio.create_task(pipe(onward[0], writer)),
            }
        )

    server = await asyncio.start_server(meet, "127.0.0.1", 0, ssl=certificate.context)
    try:
        yield f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for session in sessions:
            session.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)


async def test_frames_travel_under_the_announced_certificate():
    ann = Peer(ANN).pool
    async with tls_peer(BOB) as bob:
        link = await ann.connect(bob.id, bob.url, OURS.fingerprint)
        link.post(message(1), b"payload")
        assert await bob.hears() == (ANN.peer, 1)
        await ann.close()


async def test_a_man_in_the_middle_with_another_certificate_is_refused():
    ann = Peer(ANN).pool
    async with tls_peer(BOB) as bob, man_in_the_middle(bob.url, THEIRS) as url:
        with pytest.raises(PeerUnreachable, match="not the announced one"):
            await ann.connect(bob.id, url, OURS.fingerprint)
        assert bob.joined == []
        await ann.close()


async def test_a_man_in_the_middle_whom_the_dialler_believes_is_found_out_by_the_proofs():
    """Each end signs the certificate it knows, so it does not help to have ours mistaken."""
    async with tls_peer(BOB) as bob, man_in_the_middle(bob.url, THEIRS) as url:
        socket = await connect(url, ssl=pinning_context(), proxy=None, compression=None)
        handshake = Handshake(
            ANN, "home", "dialler", nonce=bytes(32), certificate=THEIRS.fingerprint
        )
        with pytest.raises(HandshakeError, match="does not hold"):
            await shake_hands(socket, handshake)
        await socket.close()
        assert bob.joined == []


async def test_without_a_fingerprint_an_authority_must_vouch():
    ann = Peer(ANN).pool
    async with tls_peer(BOB) as bob:
        with pytest.raises(PeerUnreachable, match="certificate verify failed"):
            await ann.connect(bob.id, bob.url)
        await ann.close()


async def test_behind_a_proxy_that_an_authority_vouches_for_links_are_as_ever(
    monkeypatch: pytest.MonkeyPatch,
):
    """The proxy speaks TLS; the worker behind it takes plain links and announces no certificate."""
    monkeypatch.setattr(ssl, "create_default_context", lambda *_, **__: pinning_context())
    ann, bob = Peer(ANN).pool, Peer(BOB)
    server = await bob.pool.listen("127.0.0.1", 0)
    plain = server.sockets[0].getsockname()[1]

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", plain)

        async def pipe(one: asyncio.StreamReader, other: asyncio.StreamWriter) -> None:
            while data := await one.read(1 << 16):
                other.write(data)
            other.close()

        await asyncio.gather(pipe(reader, onward[1]), pipe(onward[0], writer))

    proxy = await asyncio.start_server(meet, "127.0.0.1", 0, ssl=THEIRS.context)
    url = f"wss://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    link = await ann.connect(BOB.peer, url)
    link.post(message(1))
    assert await bob.hears() == (ANN.peer, 1)
    await ann.close()
    await bob.pool.close()
    server.close()
    proxy.close()


async def test_a_plain_address_cannot_stand_for_an_announced_certificate():
    ann, bob = Peer(ANN).pool, Peer(BOB)
    server = await bob.pool.listen("127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(PeerUnreachable, match="not the announced one"):
        await ann.connect(BOB.peer, url, OURS.fingerprint)
    await ann.close()
    await bob.pool.close()
    server.close()


def test_every_start_has_a_certificate_of_its_own():
    assert OURS.fingerprint != THEIRS.fingerprint
    assert len(OURS.fingerprint) == 32
