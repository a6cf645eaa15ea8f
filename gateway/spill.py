"""Room beyond memory: bytes that lie in files without a name for as long as they are needed."""

import os
import resource
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from shared.errors import CheckpointLost, ConfigError

BATCH_BYTES: Final = 16 << 20
"""What goes into a file of its own. Writing so much takes the page cache about 10 ms, in which no
token moves."""
RETRY_SECONDS: Final = 60.0
"""How long a disk that took nothing is left alone."""
MOST_FILES: Final = 1 << 16

log = structlog.get_logger()


@dataclass(frozen=True, eq=False)
class _File:
    """What was written together, for as long as anybody may read of it."""

    descriptor: int


@dataclass(frozen=True, eq=False)
class Spilled:
    """Bytes that lie in a file. They are read, not mapped: what a disk does not give back ends a
    process that has it mapped."""

    file: _File
    start: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> "Spilled":
        start, end, _ = part.indices(self.size)
        return Spilled(self.file, self.start + start, max(0, end - start))

    def read(self) -> bytes:
        """The bytes themselves. Raises CheckpointLost when the disk does not give them back."""
        try:
            rows = os.pread(self.file.descriptor, self.size, self.start)
        except OSError as error:
            raise CheckpointLost(f"{self.size} bytes on disk: {error.strerror}") from error
        if len(rows) < self.size:
            raise CheckpointLost(f"{self.size} bytes on disk, of which {len(rows)} are left")
        return rows


class Spill:
    """At most `budget_bytes` in files in a directory; the system frees each with its last reader.

    Each takes a descriptor, of which half are left to connections. They have no name: nothing is
    left of them when the process ends, however it ends. Raises ConfigError when no file can be made
    there.
    """

    def __init__(self, directory: Path, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.num_bytes = 0
        self.batch_bytes = min(BATCH_BYTES, budget_bytes)
        self._directory = directory
        self._num_files = 0
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_files = MOST_FILES if limit == resource.RLIM_INFINITY else limit // 2
        self._failed_at = -RETRY_SECONDS
        try:
            tempfile.TemporaryFile(dir=directory).close()
        except OSError as error:
            raise ConfigError(
                f"checkpoints cannot be spilled to {directory}: {error.strerror}; make it a "
                "directory that this process may write to (GATEWAY_CHECKPOINT_SPILL_DIR)"
            ) from error

    def take(self, parts: Sequence[memoryview]) -> Spilled | None:
        """These bytes, one part after the other, out of memory; None where there is no room.

        Room comes back when nothing refers any more to what was returned, or to slices of it.
        """
        size = sum(map(len, parts))
        is_resting = time.monotonic() < self._failed_at + RETRY_SECONDS
        if (
            size == 0
            or is_resting
            or self.num_bytes + size > self.budget_bytes
            or self._num_files >= self._max_files
        ):
            return None
        try:
            with tempfile.TemporaryFile(dir=self._directory) as file:
                file.writelines(parts)
                file.flush()
                written = _File(os.dup(file.fileno()))
        except OSError as error:
            self._failed_at = time.monotonic()
            log.warning("spill_failed", directory=str(self._directory), error=str(error))
            return None
        self.num_bytes += size
        self._num_files += 1
        weakref.finalize(written, self._let_go, written.descriptor, size).atexit = False
        return Spilled(written, 0, size)

    def _let_go(self, descriptor: int, size: int) -> None:
        os.close(descriptor)
        self.num_bytes -= size
        self._num_files -= 1
