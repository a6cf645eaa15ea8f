"""API keys: who may come in, and how much of the gateway is theirs. Pure.

A key is 256 random bits, so that its plain SHA-256 tells nothing of it: only that is kept.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.errors import ConfigError

PREFIX: Final = "sk-bb-"
SECRET_BYTES: Final = 32
MAX_KEYS: Final = 10_000
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$"

Limit = Annotated[int, Field(ge=1, le=10**12)]


class Key(BaseModel):
    """What is kept of a key. Without a limit there is none; without models it may use all."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=NAME)]
    digest: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
    created: Annotated[int, Field(ge=0)] = 0
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    max_streams: Limit | None = None
    models: list[str] = []


class KeyList(BaseModel):
    """What stands in a file of keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    keys: Annotated[list[Key], Field(max_length=MAX_KEYS)] = []


@dataclass(frozen=True)
class Caller:
    """Who a request comes from; without a key, somebody at a gateway that is open to all.

    What is kept for one `tenant`, be it prefixes or answers, serves no other. A whole answer is
    waited for `patience_seconds`, where that is known.
    """

    tenant: str
    key: Key | None = None
    patience_seconds: float | None = None

    @property
    def name(self) -> str:
        """The key's name, as logs and metrics know it; empty without one."""
        return self.key.name if self.key else ""

    def may_use(self, *names: str) -> bool:
        """Whether a model that goes by these names is among those the key is for."""
        return self.key is None or not self.key.models or bool({*names} & {*self.key.models})


class Keys:
    """Keys by their digests. Raises ConfigError when two have the same name or digest."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.listed = tuple(keys)
        self._by_digest: Mapping[str, Key] = {key.digest: key for key in self.listed}
        names = {key.name for key in self.listed}
        if len(names) < len(self.listed):
            raise ConfigError("two API keys have the same name; each needs a name of its own")
        if len(self._by_digest) < len(self.listed):
            raise ConfigError("two API keys have the same digest; make one of them anew")

    def find(self, secret: str) -> Key | None:
        """The key that this is.

        Finding the digest may take more or less time, but nobody can choose what a digest begins
        with; that all of it is the same is found out in constant time.
        """
        digest = digest_of(secret)
        key = self._by_digest.get(digest)
        return key if key and hmac.compare_digest(key.digest, digest) else None


def make_secret() -> str:
    """A new key, to be shown once."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def digest_of(secret: str) -> str:
    """What is kept of a key."""
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()


def caller_by(key: Key) -> Caller:
    """Whoever has this key."""
    return Caller(f"key:{key.name}", key)


def anybody(secret: str) -> Caller:
    """Somebody at an open gateway, which tells people apart by whatever key they say is theirs."""
    return Caller(f"open:{digest_of(secret)}")


def presented(headers: Mapping[str, str]) -> str:
    """The key that a request shows; empty when it shows none."""
    scheme, _, bearer = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        return bearer.strip()
    return (headers.get("api-key") or headers.get("x-api-key") or "").strip()


def masked(secret: str) -> str:
    """Enough of a wrong key for its owner to know which it was."""
    return f"{secret[:5]}***{secret[-2:]}" if len(secret) >= 16 else "***"


def parse_file(raw: bytes) -> list[Key]:
    """The keys in a file. Raises ValueError, naming the place and never what stands there."""
    try:
        return KeyList.model_validate_json(raw).keys
    except ValidationError as error:
        raise ValueError(_first_mistake(error)) from error


def parse_variable(text: str) -> list[Key]:
    """The keys in an environment variable: NAME=sha256:HEX,... or a JSON list as in a file.

    Raises ValueError, naming the place and never what stands there.
    """
    try:
        if text.lstrip().startswith("["):
            return _listed.validate_json(text)
        items = [item.strip().partition("=") for item in text.split(",") if item.strip()]
        found = [{"name": name.strip(), "digest": digest.strip()} for name, _, digest in items]
        return _listed.validate_python(found)
    except ValidationError as error:
        raise ValueError(_first_mistake(error)) from error


def write_file(keys: Iterable[Key]) -> str:
    """The text of a file of keys; what a key has no limit for is left out."""
    listed = [key.model_dump(exclude_defaults=True) for key in keys]
    return json.dumps({"keys": listed}, indent=2) + "\n"


_listed: Final = TypeAdapter(Annotated[list[Key], Field(max_length=MAX_KEYS)])


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
