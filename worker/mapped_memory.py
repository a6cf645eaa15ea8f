"""Which tensors are parts of files, and how to let go of memory that is no longer read.

safetensors maps its files, so tensors that need no cast stay in them: pages that are not touched
take no memory, and those that were can be read again. Linux only; elsewhere nothing is mapped.
"""

import ctypes
import mmap
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/maps")
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


def trim() -> None:
    """Hand freed memory back to the system, which glibc keeps for later (malloc_trim(3))."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release:
        release(0)
