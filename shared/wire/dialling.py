"""Opens the WebSocket that a link will be on: to the signed address and to no other."""

import asyncio
import socket as sockets
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.exceptions import WebSocketException

from shared.errors import HandshakeError, PeerUnreachable
from shared.hosts import Realm, is_within
from shared.swarm import PeerId
from shared.wire.bundle import BUNDLES, choose
from shared.wire.certificate import fingerprint_of, pinning_context
from shared.wire.codec import MAX_FRAME_BYTES

DIAL_SECONDS = 5.0
"""For the connection; what comes before, looking up a name, and after may take as long again."""
PING_INTERVAL_SECONDS = 4.0
PING_TIMEOUT_SECONDS = 8.0

SOCKET_OPTIONS: dict[str, Any] = {
    "compression": None,
    "max_size": MAX_FRAME_BYTES,
    "max_queue": 4,
    "ping_interval": PING_INTERVAL_SECONDS,
    "ping_timeout": PING_TIMEOUT_SECONDS,
    "close_timeout": 1.0,
}
"""Keyword arguments of both `connect` and `serve`: silence is noticed within 12 s."""

SERVER_OPTIONS: dict[str, Any] = SOCKET_OPTIONS | {
    "subprotocols": [BUNDLES],
    "select_subprotocol": choose,
}
"""Keyword arguments of `serve`."""


async def dial(
    peer: PeerId, url: str, certificate: bytes, *, reach: Realm, host: str = ""
) -> Connection:
    """A WebSocket to where a peer should be, which has proven nothing yet. Raises PeerUnreachable.

    With `host`, an address, that is dialled whatever the URL's host resolves to.
    """
    options: dict[str, Any] = {"host": host} if host else {}
    if certificate and url.startswith("wss:"):
        options["ssl"] = pinning_context()
    try:
        async with asyncio.timeout(2 * DIAL_SECONDS):
            if reach != "loopback" and not host:
                options["host"] = await resolved(url, reach)
            return await _ConnectHere(
                url,
                open_timeout=DIAL_SECONDS,
                proxy=None,
                subprotocols=[BUNDLES],
                **SOCKET_OPTIONS,
                **options,
            )
    except (OSError, TimeoutError, ValueError, WebSocketException) as error:
        # ValueError: hosts that are no names, which URLs may contain
        raise PeerUnreachable(f"{peer} at {url}: {error or 'timed out'}") from error


async def addresses_of(url: str) -> list[str]:
    """The addresses of a URL's host. Raises OSError when its name does not resolve."""
    host = urlsplit(url).hostname or ""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=sockets.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


async def resolved(url: str, reach: Realm) -> str:
    """An address of a URL's host that one of this reach may dial. Raises OSError for none."""
    addresses = await addresses_of(url)
    allowed = next((one for one in addresses if is_within(reach, one)), None)
    if allowed is None:
        raise OSError(
            f"{', '.join(sorted(set(addresses)))} is no {reach} address, and this peer joined a "
            f"{reach} swarm; say --reach private or --reach loopback if it should be dialled"
        )
    return allowed


def check_certificate(socket: Connection, fingerprint: bytes) -> None:
    """Raises HandshakeError unless the other end has shown the certificate of this fingerprint."""
    if not fingerprint:
        return
    tls = socket.transport.get_extra_info("ssl_object")
    if tls is None or fingerprint_of(tls) != fingerprint:
        raise HandshakeError(
            "the certificate there is not the announced one: it has been restarted, or somebody "
            "sits between"
        )


class _ConnectHere(connect):
    """Dials the signed address and no other: a redirect is refused."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc
