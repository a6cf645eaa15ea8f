"""The secret of a private swarm: what is derived from it, and where it is read. Pure but for that.

Who does not know it can neither prove membership on a link, nor find the swarm's topics in the DHT,
nor read the records there. Guesses at a weak secret are made slow by scrypt (RFC 7914).
"""

import hashlib
import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from shared.commands import ENV_FILE, settings_config
from shared.errors import ConfigError, RecordError

MIN_CHARACTERS = 16
MAX_FILE_BYTES = 4096
NONCE_BYTES = 12
_SALT = b"bucket-brigade/swarm-secret/1\0"


class _Environment(BaseSettings):
    """BRIGADE_SWARM_SECRET, the same for all commands."""

    model_config = settings_config("BRIGADE_")

    swarm_secret: SecretStr = Field(SecretStr(""), description="a private swarm's secret")


class SwarmSecret:
    """Keys derived from a swarm's secret and its name. Never printed."""

    def __init__(self, secret: str, swarm: str) -> None:
        """Raises ConfigError when the secret is too short to keep anybody out."""
        if len(secret) < MIN_CHARACTERS:
            raise ConfigError(
                f"the swarm secret has {len(secret)} characters, at least {MIN_CHARACTERS} are "
                "needed; make one with: openssl rand -hex 32"
            )
        kdf = Scrypt(salt=_SALT + swarm.encode(), length=32, n=1 << 14, r=8, p=1)
        self._key = kdf.derive(secret.encode())
        self._box = ChaCha20Poly1305(self._derived(b"record"))

    @classmethod
    def load(cls, file: Path | None, swarm: str) -> "SwarmSecret | None":
        """From a file, else from BRIGADE_SWARM_SECRET; none for an open swarm.

        Raises ConfigError when there is one that cannot be used.
        """
        if file is None:
            given = _Environment(_env_file=ENV_FILE).swarm_secret.get_secret_value()  # pyright: ignore[reportCallIssue]
            return cls(given, swarm) if given else None
        try:
            with file.open("rb") as opened:
                return cls(opened.read(MAX_FILE_BYTES).decode().strip(), swarm)
        except OSError as error:
            raise ConfigError(f"swarm secret file {file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"swarm secret file {file} is not text") from error

    def membership(self, transcript: bytes) -> bytes:
        """What shows on a link that its signer knows the secret."""
        return hmac.digest(self._derived(b"link"), transcript, "sha256")

    def topic(self, topic: str) -> str:
        """The name that a topic has in the DHT."""
        return hmac.digest(self._derived(b"topic"), topic.encode(), "sha256").hex()

    def seal(self, content: bytes, *, context: bytes) -> bytes:
        """Encrypted, for those who know the secret and give the same context."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._box.encrypt(nonce, content, context)

    def unseal(self, sealed: bytes, *, context: bytes) -> bytes:
        """What was sealed. Raises RecordError."""
        try:
            return self._box.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except (InvalidTag, ValueError) as error:
            raise RecordError("a record is not sealed with our swarm's secret") from error

    def _derived(self, purpose: bytes) -> bytes:
        return hashlib.blake2b(purpose, key=self._key, digest_size=32).digest()
