"""What `brigade doctor` measures: sockets, names, clocks, disks, the swarm. Changes nothing."""

import asyncio
import os
import secrets
import shutil
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from shared.absence import Absence
from shared.discovery.directory import Sighting
from shared.discovery.kademlia import KademliaDirectory
from shared.discovery.sealed import directory_of
from shared.errors import PeerUnreachable, RecordError
from shared.identity import Identity
from shared.records import open_record
from shared.secret import SwarmSecret
from shared.swarm import Announcement, ModelSpec, topic_of

NTP_SERVER = ("pool.ntp.org", 123)
NTP_EPOCH_SECONDS = 2_208_988_800
"""From 1900, NTP's epoch, to 1970 (https://www.rfc-editor.org/rfc/rfc5905#section-6)."""
ANSWER_SECONDS = 3.0
MAX_DIALLED = 16
NUM_LOOKS = 4
LOOK_SECONDS = 1.0


def listen(host: str, port: int) -> socket.socket:
    """A socket bound as a server of ours binds it. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


async def comes_back(listener: socket.socket, host: str, port: int) -> bool:
    """Whether a connection to `host` and `port` ends at `listener`: it is dialled, and asked."""
    try:
        await _come_back(listener, host, port)
    except (OSError, TimeoutError):
        return False
    return True


async def _come_back(listener: socket.socket, host: str, port: int) -> None:
    token = secrets.token_bytes(16)
    arrived = asyncio.Event()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(len(token)) == token:
                arrived.set()
        writer.close()

    async with await asyncio.start_server(hear, sock=listener), asyncio.timeout(ANSWER_SECONDS):
        _, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(token)
            await arrived.wait()
        finally:
            writer.close()


async def answers(url: str) -> bool:
    """Whether anything takes connections at a WebSocket URL."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def addresses_of(host: str) -> list[str]:
    """The IP addresses of a host; none when its name does not resolve."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return sorted({str(address[0]) for *_, address in found})


def ntp_skew(server: tuple[str, int] = NTP_SERVER) -> float | None:
    """How far our clock is ahead of a time server's, in seconds; None when none answers.

    SNTP: https://www.rfc-editor.org/rfc/rfc4330#section-5. The answer's time is that half-way
    between asking and hearing.
    """
    ask = bytes([0x23]) + bytes(47)  # version 4, client
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(ANSWER_SECONDS)
            udp.connect(server)
            sent = time.time()
            udp.send(ask)
            answer = udp.recv(1024)
            heard = time.time()
    except OSError:
        return None
    if len(answer) < 48 or answer[0] & 7 != 4 or not 0 < answer[1] < 16:
        return None  # not a server's answer, or one that has no time itself
    seconds, fraction = struct.unpack("!II", answer[40:48])
    return (sent + heard) / 2 - (seconds - NTP_EPOCH_SECONDS + fraction / 2**32)


def room_in(folder: Path) -> tuple[int, bool]:
    """Bytes free where a folder is or will be, and whether it can be written to."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free, os.access(existing, os.W_OK | os.X_OK)


def installed(requirements: Iterable[str]) -> dict[str, str | None]:
    """The versions of the packages that requirements name."""
    names = {Requirement(requirement).name for requirement in requirements}
    return {name: _version_of(name) for name in names}


async def known_at(address: str) -> int:
    """How many members a newcomer knows that dialled this one only: 0 when it does not answer."""
    directory = KademliaDirectory(Identity.create(), join=[address], server=False)
    await directory.start()
    try:
        return directory.known_peers()
    finally:
        await directory.stop()


class Seen(NamedTuple):
    """Announcements, each with the seconds it is still believed, and our clock at that moment.

    When there are none, `hint` says what may be the reason.
    """

    sightings: list[tuple[Announcement, float]]
    at: float
    hint: str = ""


async def look(
    join: Sequence[str], swarm: str, spec: ModelSpec, *, secret: SwarmSecret | None = None
) -> Seen:
    """What the workers of a model announce."""
    topic = topic_of(swarm, spec.name, spec.revision)
    identity = Identity.create()
    directory = KademliaDirectory(identity, join=join, server=False)
    listed = directory_of(directory, secret, identity)
    await directory.start()
    try:
        for _ in range(NUM_LOOKS):
            with suppress(PeerUnreachable):
                if sightings := await listed.lookup(topic):
                    at = time.time()
                    opened = [one for one in map(_opened, sightings) if one]
                    return Seen([one for one in opened if one[0].topic == topic], at)
            await asyncio.sleep(LOOK_SECONDS)
        absence = Absence(
            listed, spec, swarm, secret is not None, known_peers=directory.known_peers
        )
        return Seen([], time.time(), await absence.explained())
    finally:
        await directory.stop()


def _opened(sighting: Sighting) -> tuple[Announcement, float] | None:
    try:
        return open_record(sighting.record), sighting.remaining_seconds
    except RecordError:
        return None  # a forgery says nothing of clocks or addresses


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
