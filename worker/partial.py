"""A file of which some byte ranges are here and the rest is holes: sparse, with a journal.

Offsets stay those of the whole file, so a safetensors header needs no rewriting, a span that
moves fetches only what it lacks, and several processes may fill one file at a time. A range is
noted in the journal after its bytes are on the disk: what the journal says survives any end of
the process or the machine. File systems without holes (FAT) spend the whole file's size.
"""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class ByteRange(NamedTuple):
    """The bytes `[start, end)` of a file."""

    start: int
    end: int


class PartialFile:
    """What is here of a file. Holes read as zeros: ask `missing` first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal = path.with_name(path.name + ".have")
        if not path.exists():
            self._journal.unlink(missing_ok=True)  # of a file that somebody removed
        self._have = merged(_read_journal(self._journal))
        self._lock = threading.Lock()

    def missing(self, wanted: Iterable[ByteRange]) -> list[ByteRange]:
        """The parts of the wanted ranges that are not here, in order."""
        return subtract(merged(wanted), self._have)

    def create(self, size: int) -> None:
        """Make it `size` bytes long, all holes. Changes nothing when it is that already."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.truncate(size)

    def read(self, part: ByteRange) -> bytes:
        """The bytes of a range that is here."""
        with self.path.open("rb") as file:
            file.seek(part.start)
            return file.read(part.end - part.start)

    def write(self, start: int, data: bytes) -> None:
        """Keep bytes for good. May be called from several threads, for different ranges."""
        with self.path.open("r+b", buffering=0) as file:
            rest = memoryview(data)
            file.seek(start)
            while rest:
                rest = rest[file.write(rest) :]
            os.fdatasync(file.fileno())
        part = ByteRange(start, start + len(data))
        with self._lock, self._journal.open("a") as journal:
            journal.write(f"{part.start} {part.end}\n")
            self._have = merged([*self._have, part])


def merged(parts: Iterable[ByteRange]) -> list[ByteRange]:
    """The same bytes as ranges that neither touch nor overlap, in order."""
    out: list[ByteRange] = []
    for part in sorted(parts):
        if out and part.start <= out[-1].end:
            out[-1] = ByteRange(out[-1].start, max(out[-1].end, part.end))
        elif part.start < part.end:
            out.append(part)
    return out


def subtract(parts: Iterable[ByteRange], taken: Iterable[ByteRange]) -> list[ByteRange]:
    """What is left of merged `parts` without the merged `taken`."""
    left: list[ByteRange] = []
    for start, end in parts:
        for hole in taken:
            if hole.end <= start or end <= hole.start:
                continue
            if start < hole.start:
                left.append(ByteRange(start, hole.start))
            start = hole.end
        if start < end:
            left.append(ByteRange(start, end))
    return left


def pieces(parts: Iterable[ByteRange], size: int) -> list[ByteRange]:
    """The same bytes in ranges of at most `size`."""
    return [
        ByteRange(start, min(start + size, part.end))
        for part in parts
        for start in range(part.start, part.end, size)
    ]


def num_bytes(parts: Iterable[ByteRange]) -> int:
    """How many bytes the ranges hold in all."""
    return sum(end - start for start, end in parts)


def _read_journal(path: Path) -> list[ByteRange]:
    """The ranges noted; a line cut off by a crash is left out."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    fields = [line.split() for line in lines if line.endswith("\n")]
    return [ByteRange(int(f[0]), int(f[1])) for f in fields if len(f) == 2]
