"""Writes an answer's record behind its stream, which never waits for it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway.generator import Token
from gateway.resume_lease import BEAT_SECONDS, Lease
from gateway.resume_record import encode_token
from gateway.store import MAX_ENTRY_BYTES, Store, StoreError

LAST_TRIES: Final = 3
REMEMBER_SECONDS: Final = 30.0
"""How often the entry that leads from an Idempotency-Key to the answer is written anew."""


@dataclass(frozen=True)
class Entry:
    """What stands in a store under a name."""

    key: str
    value: bytes


class Writer:
    """Writes in a task of its own, from the moment it is made until end().

    What the store has is always a beginning of the record: a writer that falls behind, or dies,
    costs whoever comes after it some tokens made twice, none told twice. When the lease is lost
    `on_lost` is called; what was made until then is written if somebody waits for it.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        *,
        record: Entry,
        name: Entry | None,
        seconds: float,
        on_lost: Callable[[], None],
    ) -> None:
        """`record` is in the store, as far as we know, and `name`, which leads to it, too."""
        self._store = store
        self._lease = lease
        self._key = record.key
        self._raw = bytearray(record.value)
        self._name = name
        self._num_stored = len(self._raw)
        self._seconds = seconds
        self._on_lost = on_lost
        self._is_full = False
        self._is_ended = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    def add(self, token: Token) -> None:
        """One more token was made. From the first on that a store has no room for, none is kept."""
        part = encode_token(token)
        self._is_full = self._is_full or len(self._raw) + len(part) > MAX_ENTRY_BYTES
        if not self._is_full:
            self._raw += part

    def end(self) -> None:
        """No more tokens come from here. The rest is written in the background."""
        self._is_ended.set()

    async def _run(self) -> None:
        num_beats = 0
        while not await self._has_ended():
            if not await self._beat(num_beats):
                self._on_lost()
                break
            num_beats += 1
        await self._write_the_rest()
        with suppress(StoreError):
            await self._lease.release()

    async def _has_ended(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_SECONDS):
                await self._is_ended.wait()
        return self._is_ended.is_set()

    async def _beat(self, number: int) -> bool:
        """Whether the answer is still ours; a store in trouble counts as yes."""
        with suppress(StoreError):
            if not await self._lease.beat():
                return False
            await self._write()
            if number % round(REMEMBER_SECONDS / BEAT_SECONDS) == 0:
                await self._remember()
        return True

    async def _write_the_rest(self) -> None:
        for _ in range(LAST_TRIES):
            with suppress(StoreError):
                if not (await self._lease.beat() or await self._lease.may_write()):
                    return
                await self._write()
                if self._num_stored == len(self._raw):
                    return await self._remember()

    async def _write(self) -> None:
        """Add what the store lacks. A lost reply, or a store that forgot, shows in the length."""
        at = self._num_stored
        size = await self._store.append(
            self._key, bytes(self._raw[at:]), at=at, seconds=self._seconds
        )
        self._num_stored = min(size, len(self._raw))

    async def _remember(self) -> None:
        if self._name is not None:
            key, value = self._name.key, self._name.value
            await self._store.swap(key, value, value, seconds=self._seconds)
