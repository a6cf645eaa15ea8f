"""The API keys a running gateway goes by, read anew whenever their file changes."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from gateway.keys import Caller, Key, Keys, anybody, caller_by, masked, parse_file, presented
from shared.errors import ConfigError, RequestError

log = structlog.get_logger()

LOOK_SECONDS: Final = 1.0
"""How often the file is looked at, at most."""

MAX_FILE_BYTES: Final = 8 << 20

Stamp = tuple[int, int, int]


class KeyRing:
    """The keys of `path` and those `given` beside it; without either the gateway is open.

    A file that was good once and is spoiled or removed later changes nothing but the log: a gateway
    with keys never becomes one without. Raises ConfigError when it is bad from the beginning.
    """

    def __init__(
        self,
        path: Path | None = None,
        given: Sequence[Key] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_open = path is None and not given
        self._path = path
        self._given = tuple(given)
        self._clock = clock
        self._looked_at = clock()
        self._stamp = self._look()
        self._keys = self._read()

    @property
    def keys(self) -> Keys:
        """Those that hold now."""
        if self._path is not None and self._clock() >= self._looked_at + LOOK_SECONDS:
            self._looked_at = self._clock()
            self._refresh()
        return self._keys

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Who sends these headers. Raises RequestError 401."""
        secret = presented(headers)
        if self.is_open:
            return anybody(secret)
        if not secret:
            raise RequestError(
                "You didn't provide an API key. You need to provide your API key in an "
                "Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
                status=401,
            )
        if key := self.keys.find(secret):
            return caller_by(key)
        raise RequestError(
            f"Incorrect API key provided: {masked(secret)}.", reason="invalid_api_key", status=401
        )

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = self._read()
        except ConfigError as error:
            log.error("keys_not_read", reason=str(error), effect="the keys read before still hold")
        else:
            log.info("keys_read", num_keys=len(self._keys.listed))

    def _look(self) -> Stamp | None:
        """What differs when the file was written anew; none when it cannot be seen."""
        try:
            found = os.stat(self._path) if self._path else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ino, found.st_size) if found else None

    def _read(self) -> Keys:
        return Keys([*self._given, *(read_keys(self._path) if self._path else ())])


def read_keys(path: Path) -> list[Key]:
    """The keys in a file. Raises ConfigError, naming it."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ConfigError(f"keys file {path} is larger than {MAX_FILE_BYTES} bytes")
        return parse_file(raw)
    except FileNotFoundError as error:
        raise ConfigError(
            f"keys file {path} does not exist; make a first key: brigade keys make NAME"
        ) from error
    except OSError as error:
        raise ConfigError(f"keys file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"keys file {path}: {error}") from error
