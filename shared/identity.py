"""Ed25519 identities: load, create, peer id, sign, verify.

A peer id is libp2p's: base58 of the identity multihash of the protobuf-wrapped public key
(https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md), so that the same key names a
peer in the DHT and on a link.
"""

import fcntl
import os
from functools import lru_cache
from pathlib import Path

import base58
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from shared.errors import ConfigError, ProtocolError
from shared.swarm import PeerId

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
# identity multihash (0x00), 36 bytes; protobuf: key type 1 = Ed25519, then 32 bytes of data
_PEER_ID_PREFIX = bytes.fromhex("002408011220")


class Identity:
    """A private key and the peer id it proves."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ConfigError(f"an identity is {SEED_BYTES} bytes, not {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.seed = seed
        self.public_key = self._key.public_key().public_bytes_raw()
        self.peer = peer_id(self.public_key)
        self._lock: int | None = None

    @classmethod
    def create(cls) -> "Identity":
        """A new random identity, not kept anywhere."""
        return cls(os.urandom(SEED_BYTES))

    @classmethod
    def load_or_create(cls, path: Path) -> "Identity":
        """The identity kept in `path`, made on first use. Raises ConfigError when unusable."""
        try:
            if not path.exists():
                _write_new(path, os.urandom(SEED_BYTES).hex())
            return cls(bytes.fromhex(path.read_text().strip()))
        except ValueError as error:
            raise ConfigError(
                f"identity file {path} is not {2 * SEED_BYTES} hex digits; "
                "restore it or remove it to get a new identity"
            ) from error
        except OSError as error:
            raise ConfigError(f"identity file {path}: {error.strerror}") from error

    @classmethod
    def claim(cls, path: Path) -> "Identity":
        """The identity kept in `path`, for this process alone for as long as it lives.

        Two processes of one identity would take each other's answers. Raises ConfigError.
        """
        identity = cls.load_or_create(path)
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ConfigError(
                f"identity file {path} is in use by another process; "
                "give each process one of its own with --identity"
            ) from error
        identity._lock = lock
        return identity

    def release(self) -> None:
        """Let another process claim this identity."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sign(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature."""
        return self._key.sign(message)


def peer_id(public_key: bytes) -> PeerId:
    """The libp2p peer id of a raw 32-byte Ed25519 public key."""
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


@lru_cache(maxsize=4096)  # base58 takes 0.02 ms, and the same peers sign again and again
def public_key_of(peer: PeerId) -> bytes:
    """The raw public key inside a peer id. Raises ProtocolError when it holds none."""
    try:
        data = base58.b58decode(peer)
    except ValueError as error:
        raise ProtocolError("peer id is not base58") from error
    if len(data) != len(_PEER_ID_PREFIX) + PUBLIC_KEY_BYTES or data[:6] != _PEER_ID_PREFIX:
        raise ProtocolError("peer id does not hold an Ed25519 key")
    if peer_id(data[6:]) != peer:  # base58 ignores white space around it
        raise ProtocolError("peer id is not in its one canonical form")
    return data[6:]


def verify(peer: PeerId, message: bytes, signature: bytes) -> None:
    """Raises ProtocolError unless `peer` signed `message`."""
    try:
        # libsodium takes 0.06 ms for it where OpenSSL takes 0.20
        VerifyKey(public_key_of(peer)).verify(message, signature)
    except (BadSignatureError, ValueError) as error:  # ValueError: it has not 64 bytes
        raise ProtocolError(f"signature is not {peer}'s") from error


def _write_new(path: Path, text: str) -> None:
    """Write a private file whole or not at all, so that two starters never see half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
    try:
        os.link(draft, path)  # unlike rename, this loses to whoever came first
    except FileExistsError:
        pass
    finally:
        draft.unlink()
