"""Mutual proof of identity at the start of a link. Pure: messages in, messages out.

Both sides say Hello with a fresh nonce, then prove their key by signing both Hellos, the
dialler's first, under a domain that names the signer's side. So neither a recorded proof nor one
made on another link, nor one's own proof sent back, convinces anybody. Under TLS they sign the
server certificate's fingerprint too. In a private swarm each also shows that it knows the secret.
"""

import hmac
from typing import Literal

import msgspec

from shared.errors import HandshakeError, ProtocolError
from shared.identity import Identity, verify
from shared.secret import SwarmSecret
from shared.swarm import PeerId
from shared.wire.messages import PROTOCOL_VERSION, Hello, Message, Proof

Side = Literal["dialler", "listener"]


class Handshake:
    """One side of one handshake. `peer` is the other's proven id once it is complete."""

    def __init__(
        self,
        identity: Identity,
        swarm: str,
        side: Side,
        *,
        nonce: bytes,
        expected: PeerId | None = None,
        certificate: bytes = b"",
        secret: SwarmSecret | None = None,
    ) -> None:
        """`expected` is whom a dialler means to reach; a listener takes anyone.

        `certificate` is the fingerprint of the TLS certificate that the link is under, if any.
        """
        self.peer: PeerId | None = None
        self._identity = identity
        self._side: Side = side
        self._expected = expected
        self._certificate = certificate
        self._secret = secret
        self._ours = Hello(identity.peer, swarm, nonce, is_private=secret is not None)
        self._theirs: Hello | None = None

    def begin(self) -> list[Message]:
        """What to send before anything has come."""
        return [self._ours] if self._side == "dialler" else []

    def receive(self, message: Message) -> list[Message]:
        """What to send in answer. Raises HandshakeError when the other side cannot be trusted."""
        match message:
            case Hello() if self._theirs is None:
                self._accept(message)
                return [self._ours, self._proof()] if self._side == "listener" else []
            case Proof() if self._theirs is not None and self.peer is None:
                self._check(message, self._theirs)
                return [self._proof()] if self._side == "dialler" else []
            case _:
                raise HandshakeError(f"unexpected {type(message).__name__} during the handshake")

    def _accept(self, hello: Hello) -> None:
        if hello.version != PROTOCOL_VERSION:
            raise HandshakeError(
                f"{hello.peer} speaks protocol {hello.version}, we speak {PROTOCOL_VERSION}; "
                "update the older of the two"
            )
        if hello.swarm != self._ours.swarm:
            raise HandshakeError(
                f"{hello.peer} is of swarm {hello.swarm!r}, not {self._ours.swarm!r}"
            )
        if hello.is_private != self._ours.is_private:
            who = hello.peer if self._secret is None else self._ours.peer
            raise HandshakeError(
                f"swarm {hello.swarm!r} is private to {who} and open to the other: give both the "
                "same BRIGADE_SWARM_SECRET"
            )
        if self._expected is not None and hello.peer != self._expected:
            raise HandshakeError(f"dialled {self._expected} but {hello.peer} answered")
        if hello.peer == self._ours.peer:
            raise HandshakeError(f"{hello.peer} is our own identity: give each process its own")
        self._theirs = hello

    def _check(self, proof: Proof, theirs: Hello) -> None:
        side: Side = "listener" if self._side == "dialler" else "dialler"
        try:
            verify(theirs.peer, self._transcript(side), proof.signature)
        except ProtocolError as error:
            raise HandshakeError(f"proof of {theirs.peer} does not hold") from error
        if not hmac.compare_digest(proof.membership, self._membership(side)):
            raise HandshakeError(
                f"{theirs.peer} has another secret for swarm {theirs.swarm!r}: give both the same "
                "BRIGADE_SWARM_SECRET"
            )
        self.peer = theirs.peer

    def _proof(self) -> Proof:
        signature = self._identity.sign(self._transcript(self._side))
        return Proof(signature, self._membership(self._side))

    def _membership(self, signer: Side) -> bytes:
        return self._secret.membership(self._transcript(signer)) if self._secret else b""

    def _transcript(self, signer: Side) -> bytes:
        """What `signer` signs: its side, then both Hellos, the dialler's first, and the
        fingerprint of the certificate."""
        hellos = (self._ours, self._theirs)
        if self._side == "listener":
            hellos = hellos[::-1]
        said = msgspec.msgpack.encode((*hellos, self._certificate))
        return f"bucket-brigade/link/1 {signer}\0".encode() + said
