"""A directory for private swarms: announcements in it say nothing to who does not know the secret.

The true record travels, encrypted, in a veil: an announcement that holders can check and renew like
any other, under a topic that only members can name. So open and private swarms may share a DHT.
"""

from shared.discovery.directory import Directory, Sighting
from shared.errors import RecordError
from shared.identity import Identity
from shared.records import open_record, read_unchecked, sign_announcement
from shared.secret import SwarmSecret
from shared.swarm import Announcement, PeerId, Span

NOWHERE = "ws://sealed.invalid"


class SealedDirectory:
    """Seals what is announced, and opens what is found; the records inside stay signed."""

    def __init__(self, directory: Directory, secret: SwarmSecret, identity: Identity) -> None:
        self._directory = directory
        self._secret = secret
        self._identity = identity

    async def announce(self, topic: str, record: bytes) -> int:
        """As Directory says. The record must be of our own identity."""
        veil = self._veil(topic, open_record(record), record)
        return await self._directory.announce(veil.topic, sign_announcement(self._identity, veil))

    async def lookup(self, topic: str) -> list[Sighting]:
        """As Directory says. What does not open is nobody's of this swarm, and left out."""
        veiled = self._secret.topic(topic)
        found: list[Sighting] = []
        for sighting in await self._directory.lookup(f"{veiled}/@"):
            try:
                veil = read_unchecked(sighting.record)
                record = self._secret.unseal(veil.sealed, context=_context(veiled, veil.worker))
            except RecordError:
                continue
            found.append(Sighting(record, sighting.remaining_seconds))
        return found

    def _veil(self, topic: str, announcement: Announcement, record: bytes) -> Announcement:
        veiled = self._secret.topic(topic)
        context = _context(veiled, announcement.worker)
        return Announcement(
            worker=announcement.worker,
            swarm=veiled,
            model="",
            revision="",
            span=Span(0, 1),
            num_blocks=1,
            url=NOWHERE,
            dtype="",
            sequence=announcement.sequence,
            issued_at=announcement.issued_at,
            lease_seconds=announcement.lease_seconds,
            sealed=self._secret.seal(record, context=context),
        )


def directory_of(directory: Directory, secret: SwarmSecret | None, identity: Identity) -> Directory:
    """The directory of a swarm: sealed if it is private."""
    return SealedDirectory(directory, secret, identity) if secret else directory


def _context(topic: str, worker: PeerId) -> bytes:
    return f"{topic}\0{worker}".encode()
