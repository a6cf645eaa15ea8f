"""Who goes on with an answer: one connection, on one replica, at a time.

A lease is an entry that its holder renews every beat and that ends by itself when the holder
does. Whoever wants it from a live holder writes a claim in its place: the holder sees at its next
beat that it is no longer alone, stops and turns the claim into the claimant's lease. A holder that
says nothing for a lease's time is taken for dead. A later claim replaces an earlier one.
"""

import asyncio
import secrets
import time
from typing import Final

from gateway.store import Store

LEASE_SECONDS: Final = 3.0
BEAT_SECONDS: Final = 0.5
POLL_SECONDS: Final = 0.1
CLAIM: Final = b"?"


class Lease:
    """One connection's lease on `key`; `has` says whether it holds it."""

    def __init__(self, store: Store, key: str) -> None:
        self.has = False
        self._store = store
        self._key = key
        self._name = secrets.token_hex(8).encode()

    async def take(self) -> bool:
        """Wait until it is ours, however alive its holder is; false when a later claim has won.

        Raises StoreError.
        """
        while True:
            held = await self._store.get(self._key)
            claim = self._name if held is None else self._claim_on(held)
            if await self._swap(held, claim):
                return await self._outlast(claim)

    async def await_turn(self) -> bool:
        """Wait until nobody holds it any more, and hold it then. Raises StoreError."""
        while not await self._swap(None, self._name):  # noqa: ASYNC110 - others are elsewhere
            await asyncio.sleep(POLL_SECONDS)
        self.has = True
        return True

    async def beat(self) -> bool:
        """Renew it; false when somebody else has, or claims, it by now. Raises StoreError.

        One that ran out because we were slow is ours again if nobody wanted it.
        """
        self.has = await self._swap(self._name, self._name) or await self._swap(None, self._name)
        return self.has

    async def may_write(self) -> bool:
        """Whether the record is ours to write; while a claimant waits for us it is."""
        held = await self._store.get(self._key)
        return held is not None and held.rpartition(CLAIM)[2] == self._name

    async def release(self) -> None:
        """Give it to its claimant, or to nobody. Raises StoreError."""
        self.has = False
        if await self._swap(self._name, None):
            return
        claim = await self._store.get(self._key)
        if claim is not None and claim.endswith(CLAIM + self._name):
            await self._swap(claim, claim.partition(CLAIM)[0])

    async def _outlast(self, claim: bytes) -> bool:
        deadline = time.monotonic() + LEASE_SECONDS
        while (held := await self._store.get(self._key)) == claim != self._name:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
        ours = held == self._name or (held in (None, claim) and await self._swap(held, self._name))
        self.has = ours
        return ours

    def _claim_on(self, held: bytes) -> bytes:
        """Names us and whoever really runs: the holder, not one who only claims."""
        return self._name + CLAIM + held.rpartition(CLAIM)[2]

    async def _swap(self, old: bytes | None, new: bytes | None) -> bool:
        return await self._store.swap(self._key, old, new, seconds=LEASE_SECONDS)
