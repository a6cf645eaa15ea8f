"""Answers that outlive their connection, and the gateway that began them.

Each has a record in the store under an unguessable name. Its tokens depend on nothing but its
head, so a record that lags behind what the client has seen serves as well as a full one.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

import structlog
from msgspec.structs import replace

from gateway.generator import Generator, Token
from gateway.resume_lease import Lease
from gateway.resume_record import Head, Record, encode_head
from gateway.resume_writer import Entry, Writer
from gateway.store import Store, StoreError
from shared.errors import GenerationFailed, RequestError

log = structlog.get_logger()

STREAM_BYTES: Final = 24
DIGEST_BYTES: Final = 32
FAREWELL_SECONDS: Final = 3.0
"""For records that are still being written when the process ends."""

Ends = Callable[[Sequence[Token]], bool]


class Kept:
    """An answer with a record. `interrupt` is called when another connection goes on with it."""

    def __init__(
        self, archive: "Archive", stream: str, raw: bytes, record: Record, *, is_new: bool = False
    ) -> None:
        """`raw` is the record as it is stored."""
        self.stream = stream
        self.record = record
        self.is_new = is_new
        self.name: Entry | None = None
        self.interrupt: Callable[[GenerationFailed], None] = _ignore
        self._archive = archive
        self._raw = raw

    async def tokens(
        self, generator: Generator, *, ends: Ends, is_patient: bool
    ) -> AsyncGenerator[Token, None]:
        """All tokens of the answer: those that were made, then those that are made now.

        `ends` tells whether an answer is complete with some tokens. While another connection
        makes more, a patient one waits for it to end; else that one is ended. Raises
        GenerationFailed when a later connection did the same to this one.
        """
        known = self.record.tokens
        for token in known:
            yield token
        if ends(known):
            return
        lease = await self._turn(is_patient=is_patient)
        writer = self._archive.write(lease, self, self._raw)
        try:
            newer = self.record.tokens[len(known) :]
            for token in newer:
                yield token
            if newer and ends(self.record.tokens):
                return
            async with aclosing(self._generate(generator)) as source:
                async for token in source:
                    writer.add(token)
                    yield token
        finally:
            writer.end()

    async def _turn(self, *, is_patient: bool) -> Lease:
        """Hold the lease, and the record as its last holder left it.

        A store in trouble must not end the answer: it then goes on with what is known.
        """
        lease = Lease(self._archive.store, f"{key_of(self.stream)}:lease")
        try:
            if not await (lease.await_turn() if is_patient else lease.take()):
                raise taken_over()
            raw = await self._archive.store.get(key_of(self.stream))
        except StoreError as error:
            log.debug("resumed_without_store", reason=str(error))
            return lease
        latest = None if raw is None else Record.decode(raw)
        if raw is not None and latest and len(latest.tokens) >= len(self.record.tokens):
            self._raw, self.record = raw, latest
        return lease

    def _generate(self, generator: Generator) -> AsyncGenerator[Token, None]:
        head, made = self.record.head, self.record.token_ids
        source = generator.generate(
            head.prompt_ids,
            sampling=head.sampling,
            max_tokens=head.max_tokens,
            stop_ids=frozenset(head.stop_ids),
            made=made,
        )
        return _without_reuse(source) if made else source


class Archive:
    """The answers that are kept, until `seconds` after their last token."""

    def __init__(self, store: Store, *, seconds: float) -> None:
        self.store = store
        self._seconds = seconds
        self._writing: set[asyncio.Task[None]] = set()

    async def begin(self, head: Head, *, key: str = "") -> Kept:
        """A record for a new answer, or the one that this caller's `key` led to in the meantime.

        Raises StoreError, or RequestError as named() does.
        """
        stream, raw = secrets.token_urlsafe(STREAM_BYTES), encode_head(head)
        await self.store.append(key_of(stream), raw, at=0, seconds=self._seconds)
        kept = Kept(self, stream, raw, Record(head), is_new=True)
        if not key:
            return kept
        kept.name = Entry(name_key_of(head.caller, key), head.body_digest + stream.encode())
        while True:
            held = await self.store.get(kept.name.key)
            if earlier := await self._led_to(kept.name.key, held, head.caller, head.body_digest):
                await self.store.swap(key_of(stream), raw, None, seconds=self._seconds)
                return earlier
            if await self.store.swap(kept.name.key, held, kept.name.value, seconds=self._seconds):
                return kept

    async def find(self, stream: str, caller: str) -> Kept | None:
        """The answer of that name, if it is kept and this caller's. Raises StoreError."""
        raw = await self.store.get(key_of(stream))
        record = None if raw is None else Record.decode(raw)
        if raw is None or record is None:
            return None
        is_theirs = secrets.compare_digest(record.head.caller, caller)
        return Kept(self, stream, raw, record) if is_theirs else None

    async def named(self, caller: str, key: str, body_digest: bytes) -> Kept | None:
        """The answer that this caller's `key` leads to.

        Raises StoreError, and RequestError when the key came with another request before.
        """
        name_key = name_key_of(caller, key)
        return await self._led_to(name_key, await self.store.get(name_key), caller, body_digest)

    def write(self, lease: Lease, kept: Kept, raw: bytes) -> Writer:
        """Write on behind `raw`, which is stored."""
        writer = Writer(
            self.store,
            lease,
            record=Entry(key_of(kept.stream), raw),
            name=kept.name,
            seconds=self._seconds,
            on_lost=lambda: kept.interrupt(taken_over()),
        )
        self._writing.add(writer.task)
        writer.task.add_done_callback(self._writing.discard)
        return writer

    async def close(self) -> None:
        """Wait for what is being written, then let go of the store."""
        if self._writing:
            _, late = await asyncio.wait(self._writing, timeout=FAREWELL_SECONDS)
            for task in late:
                task.cancel()
        await self.store.close()

    async def _led_to(
        self, name_key: str, held: bytes | None, caller: str, body_digest: bytes
    ) -> Kept | None:
        if held is None:
            return None
        if held[:DIGEST_BYTES] != body_digest:
            raise RequestError(
                "This Idempotency-Key was used with another request: send the same body again, or "
                "a new key.",
                reason="idempotency_key_reuse",
            )
        kept = await self.find(held[DIGEST_BYTES:].decode(), caller)
        if kept is not None:
            kept.name = Entry(name_key, held)
        return kept


def taken_over() -> GenerationFailed:
    """What ends a connection's stream when another connection goes on with it."""
    return GenerationFailed("stream_taken_over", "Another connection goes on with this answer.")


def key_of(stream: str) -> str:
    """Where a record is. The braces keep it and its lease on one node of a cluster."""
    return f"answer:{{{stream}}}"


def name_key_of(caller: str, key: str) -> str:
    """Where it stands which answer an Idempotency-Key leads to."""
    return "key:" + hashlib.sha256(f"{len(caller)}:{caller}{key}".encode()).hexdigest()


async def _without_reuse(source: AsyncGenerator[Token, None]) -> AsyncGenerator[Token, None]:
    """What the beginning of an answer told of its prompt's reuse stands."""
    async with aclosing(source) as tokens:
        async for token in tokens:
            yield replace(token, cached_tokens=0)


def _ignore(_: GenerationFailed) -> None:
    pass
