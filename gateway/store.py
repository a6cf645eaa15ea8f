"""Where a gateway keeps what must outlive a connection: bytes under names, for a time.

A replica's own memory here; gateway.redis_store has one that replicas share.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from shared.errors import BrigadeError

MAX_ENTRY_BYTES: Final = 16 << 20
"""The most that one name may hold: an answer of 100,000 tokens, or of 10,000 with logprobs."""


ENTRY_OVERHEAD_BYTES: Final = 256
"""What a name costs in memory besides what is stored under it, roughly."""


class StoreError(BrigadeError):
    """A store cannot be reached, or will not hold so much."""

    code = "store_unavailable"


class EntryTooLarge(StoreError):
    """More than a store holds under one name; it is well otherwise."""


class Store(Protocol):
    """What is stored is gone `seconds` after it was last written. All may raise StoreError."""

    async def get(self, key: str) -> bytes | None:
        """What is stored; none when nothing is."""
        ...

    async def put(self, key: str, value: bytes, *, seconds: float) -> None:
        """Store `value`, whatever was there."""
        ...

    async def append(self, key: str, value: bytes, *, at: int, seconds: float) -> int:
        """Add to the end of what is stored if that is `at` bytes long, an absent one 0; else
        nothing happens. Returns how long it is then."""
        ...

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, seconds: float) -> bool:
        """Store `new` if `old` is what is stored, none standing for nothing; whether it was."""
        ...

    async def check(self) -> None:
        """Raises StoreError when the store cannot be reached."""
        ...

    async def close(self) -> None:
        """Let go of it. What is stored stays."""
        ...


def check_size(size: int) -> None:
    """Raises EntryTooLarge when no store holds that much under one name."""
    if size > MAX_ENTRY_BYTES:
        raise EntryTooLarge(f"{size} bytes are more than the {MAX_ENTRY_BYTES} that are kept")


class _Entry(NamedTuple):
    value: bytearray
    expires: float


class MemoryStore:
    """Keeps at most `max_bytes`; what was not touched for longest goes first."""

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def get(self, key: str) -> bytes | None:
        """See Store."""
        entry = self._find(key)
        return None if entry is None else bytes(entry.value)

    async def put(self, key: str, value: bytes, *, seconds: float) -> None:
        """See Store."""
        self._set(key, bytearray(value), seconds)

    async def append(self, key: str, value: bytes, *, at: int, seconds: float) -> int:
        """See Store."""
        entry = self._find(key)
        stored = bytearray() if entry is None else entry.value
        if len(stored) != at:
            return len(stored)
        check_size(at + len(value))
        self._drop(key)
        stored += value
        self._set(key, stored, seconds)
        return len(stored)

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, seconds: float) -> bool:
        """See Store."""
        entry = self._find(key)
        if (None if entry is None else entry.value) != old:
            return False
        self._drop(key)
        if new is not None:
            self._set(key, bytearray(new), seconds)
        return True

    async def check(self) -> None:
        """See Store."""

    async def close(self) -> None:
        """See Store. Memory alone ends with its process."""

    def _find(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.expires <= self._clock():
            self._drop(key)
            return None
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def _set(self, key: str, value: bytearray, seconds: float) -> None:
        check_size(len(value))
        if _cost(value) > self._max_bytes:
            raise EntryTooLarge(f"{len(value)} bytes do not fit in the {self._max_bytes} of memory")
        self._drop(key)
        self._entries[key] = _Entry(value, self._clock() + seconds)
        self.num_bytes += _cost(value)
        self._make_room()

    def _drop(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.num_bytes -= _cost(entry.value)

    def _make_room(self) -> None:
        """Forget the expired, and what is in excess; each entry costs a look once in its life."""
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if self.num_bytes <= self._max_bytes and entry.expires > self._clock():
                return
            self._drop(key)


def _cost(value: bytearray) -> int:
    return len(value) + ENTRY_OVERHEAD_BYTES
