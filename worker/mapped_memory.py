"""Which tensors are parts of files, and how to let go of memory that is no longer read.

safetensors maps its files, so tensors that need no cast stay in them: pages that are not touched
take no memory, and those that were can be read again. Linux only; elsewhere nothing is mapped.
"""

import ctypes
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/maps")
_SMAPS = Path("/proc/self/smaps")
_REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ +(\S.*)")
_OWN = re.compile(r"(?:Anonymous|Private_Dirty|Swap): +[1-9]")
_DONTNEED = 4
"""MADV_DONTNEED of <sys/mman.h>."""


def is_mapped(tensor: Tensor) -> bool:
    """Whether a CPU tensor lies in a mapped file (proc_pid_maps(5): such lines have an inode)."""
    address = tensor.data_ptr()
    for line in _MAPS.read_text().splitlines() if _MAPS.exists() else ():
        extent, _, _, _, inode, *_ = line.split()
        begin, end = (int(bound, 16) for bound in extent.split("-"))
        if begin <= address < end:
            return inode != "0"
    return False


def forget(tensor: Tensor) -> None:
    """Take the pages of a mapped tensor, which nothing may have written to, out of memory."""
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if size > 0 and is_mapped(tensor):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), _DONTNEED)


def forget_code() -> None:
    """Take libraries' code out of memory: of what was read to start little is needed to serve.

    The rest comes back from the system's page cache when it is called: 70 of torch's 90 MB did not
    in a worker that served.
    """
    for begin, end in _unchanged_code():
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _DONTNEED)


def _unchanged_code() -> Iterator[tuple[int, int]]:
    """Parts of libraries as they lie in their files (proc_pid_smaps(5)).

    What the loader has written to before it forbade that, addresses for the most part, is no more.
    """
    region: tuple[int, int] | None = None
    for line in _SMAPS.read_text().splitlines() if _SMAPS.exists() else ():
        if found := _REGION.match(line):
            yield from [region] if region else ()
            begin, end, permissions, path = found.groups()
            is_code = ".so" in Path(path).name and "w" not in permissions
            region = (int(begin, 16), int(end, 16)) if is_code else None
        elif _OWN.match(line):
            region = None
    yield from [region] if region else ()


def trim() -> None:
    """Hand freed memory back to the system, which glibc keeps for later (malloc_trim(3))."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release:
        release(0)
