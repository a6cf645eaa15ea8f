"""Known members of the swarm, kept on disk, so that dead bootstrap nodes do not matter."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger()

MAX_MEMBERS = 64
MAX_FILE_BYTES = 64 << 10

_decode = msgspec.json.Decoder(list[str]).decode


def load(path: Path) -> list[str]:
    """The multiaddrs kept in a file; none when there is no such file or it is unreadable."""
    try:
        with path.open("rb") as file:
            kept = _decode(file.read(MAX_FILE_BYTES))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        log.warning("peer_cache_unreadable", path=str(path), error=str(error))
        return []
    return kept[:MAX_MEMBERS]


def save(path: Path, members: Sequence[str]) -> None:
    """Keep multiaddrs, whole or not at all. A disk that refuses is only logged."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(members[:MAX_MEMBERS]))
        draft.replace(path)
    except OSError as error:
        log.warning("peer_cache_unwritable", path=str(path), error=str(error))
        with contextlib.suppress(OSError):
            draft.unlink()
