"""`brigade keys`: makes, lists and revokes the API keys of a gateway, which sees it by itself."""

import fcntl
import os
import re
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings
from rich.console import Console
from rich.table import Table

from gateway.key_ring import read_keys
from gateway.keys import NAME, Key, Keys, Limit, digest_of, make_secret, write_file
from shared.commands import FilePath, Names, parse, settings_config
from shared.errors import ConfigError

HELP = """\
usage: brigade keys make NAME [options]     make a key and show it, this once
       brigade keys list [options]          show whose keys there are, and their limits
       brigade keys revoke NAME [options]   let a key open nothing any more

A gateway that runs with the same --keys-file goes by each change within a second or two.
`brigade keys make --help` shows the options.
"""


def _none_when_empty(value: object) -> object:
    return None if value == "" else value


OptionalLimit = Annotated[Limit | None, BeforeValidator(_none_when_empty)]


class KeysSettings(BaseSettings):
    """Make, list and revoke the API keys of a gateway."""

    model_config = settings_config("GATEWAY_KEYS_")

    file: FilePath = Field(
        Path("~/.bucket-brigade/keys.json"),
        validate_default=True,
        description="file of the keys, as the gateway's --keys-file names it",
    )
    requests_per_minute: OptionalLimit = Field(
        None, description="how many requests a new key is good for; empty = any number"
    )
    tokens_per_minute: OptionalLimit = Field(
        None, description="how many tokens, of prompts and of answers; empty = any number"
    )
    max_streams: OptionalLimit = Field(
        None, description="how many generations may run at a time for it; empty = any number"
    )
    models: Names = Field([], description="models it is for; may be repeated; empty = all")


def main(argv: list[str]) -> int:
    """Do one of the three; returns the exit status."""
    verb, *rest = argv or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    verbs: dict[str, Callable[[KeysSettings, str], None]] = {"make": _make, "revoke": _revoke}
    if verb == "list":
        _list(parse(KeysSettings, rest, prog="brigade keys list"))
        return 0
    if verb not in verbs:
        raise ConfigError(f"takes make, list or revoke, not {verb!r} (see brigade keys --help)")
    name = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    settings = parse(KeysSettings, rest, prog=f"brigade keys {verb} NAME")
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"{verb} takes the key's name first: a letter or digit, then letters, digits, "
            f"'_', '.', '@' or '-', at most 64; not {name!r}"
        )
    verbs[verb](settings, name)
    return 0


def _make(settings: KeysSettings, name: str) -> None:
    secret = make_secret()
    key = Key(
        name=name,
        digest=digest_of(secret),
        created=int(time.time()),
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        max_streams=settings.max_streams,
        models=settings.models,
    )
    with _changing(settings.file) as keys:
        if any(other.name == name for other in keys):
            raise ConfigError(f"there is a key named {name} in {settings.file}; revoke it first")
        keys.append(key)
    print(f"The key of {name}, shown this once; {settings.file} keeps its digest:", file=sys.stderr)
    print(secret)


def _revoke(settings: KeysSettings, name: str) -> None:
    with _changing(settings.file) as keys:
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            raise ConfigError(f"there is no key named {name} in {settings.file}")
        keys[:] = left
    print(f"The key of {name} opens nothing any more.", file=sys.stderr)


def _list(settings: KeysSettings) -> None:
    table = Table("name", "made", "requests/min", "tokens/min", "streams", "models")
    for key in read_keys(settings.file):
        made = time.strftime("%Y-%m-%d", time.gmtime(key.created)) if key.created else "?"
        limits = (key.requests_per_minute, key.tokens_per_minute, key.max_streams)
        table.add_row(key.name, made, *(str(limit or "any") for limit in limits), _models(key))
    Console().print(table)


def _models(key: Key) -> str:
    return ", ".join(key.models) or "all"


@contextmanager
def _changing(path: Path) -> Generator[list[Key]]:
    """The keys of a file, which are written back in one piece. One process at a time.

    The file itself is replaced, so what is locked is its directory.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"keys file {path}: {error.strerror}") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        keys = read_keys(path) if path.exists() else []
        yield keys
        Keys(keys)
        _replace(path, write_file(keys))
    finally:
        os.close(directory)


def _replace(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all, also if the power fails."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(f"keys file {path}: {error.strerror}") from error
