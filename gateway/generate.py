"""The shell of a generation: feeds a Session what happens and performs what it asks for."""

import asyncio
import hashlib
import os
import sys
import time
from array import array
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import msgspec
import structlog

from gateway.checkpoints import Checkpoints, Stretch
from gateway.drafts import PromptLookup
from gateway.links import Event, FrameArrived, Links, ViewChanged, WorkerLost
from gateway.prefixes import KnownPrefixes, page_keys
from gateway.session import Action, Emit, Send, Session
from shared.errors import GenerationFailed, NoRoute, PeerUnreachable, ProtocolError
from shared.routing import plan_route
from shared.swarm import ModelSpec, PeerId, Route, SessionId, Span
from shared.wire.codec import Frame
from shared.wire.messages import (
    DTYPE_BYTES,
    PREFIX_PAGE_TOKENS,
    Checkpoint,
    Filled,
    PayloadDtype,
    Refused,
    Sampling,
    Step,
    Tokens,
)

log = structlog.get_logger()

SECRET_BYTES = 32
FORGIVE_SECONDS = 5.0
"""How long one session keeps away from a worker that failed it."""


@dataclass(frozen=True)
class Limits:
    """What an operator bounds a generation by."""

    chunk_tokens: int
    guess_tokens: int
    step_timeout_seconds: float
    recovery_timeout_seconds: float


class SwarmGenerator:
    """Makes tokens by sending steps along routes of workers."""

    def __init__(
        self, spec: ModelSpec, links: Links, checkpoints: Checkpoints, limits: Limits
    ) -> None:
        self._spec = spec
        self._links = links
        self._checkpoints = checkpoints
        self._limits = limits
        self._prefixes = KnownPrefixes()
        self._secret = os.urandom(SECRET_BYTES)

    async def generate(
        self,
        prompt: tuple[int, ...],
        *,
        sampling: Sampling,
        max_tokens: int,
        stop_ids: frozenset[int],
        tenant: str = "",
    ) -> AsyncGenerator[int, None]:
        """See gateway.generation.Generator. Prefixes are reused within a `tenant` only."""
        session_id = SessionId(os.urandom(16))
        self._checkpoints.open(session_id)

        def held(block: int) -> int:
            if block == 0:
                return len(session.tokens)
            return self._checkpoints.held(session_id, block)

        session = Session(
            prompt,
            self._spec.blocks,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            chunk_tokens=self._limits.chunk_tokens,
            held=held,
            guess=PromptLookup(self._limits.guess_tokens).propose,
        )
        generation = _Generation(
            session_id,
            session,
            self._spec,
            self._links,
            self._checkpoints,
            self._limits,
            sampling,
            self._prefixes,
            hashlib.blake2b(tenant.encode(), key=self._secret).digest(),
        )
        try:
            while not session.is_over:
                for token_id in await generation.advance():
                    yield token_id
        finally:
            generation.close()


class _Generation:
    """One session's dealings with the swarm."""

    def __init__(
        self,
        session_id: SessionId,
        session: Session,
        spec: ModelSpec,
        links: Links,
        checkpoints: Checkpoints,
        limits: Limits,
        sampling: Sampling,
        prefixes: KnownPrefixes,
        salt: bytes,
    ) -> None:
        self._id = session_id
        self._session = session
        self._spec = spec
        self._links = links
        self._checkpoints = checkpoints
        self._limits = limits
        self._context = msgspec.msgpack.encode(sampling)
        self._inbox = links.open_inbox(session_id)
        self._touched: set[PeerId] = set()
        self._avoided_until: dict[PeerId, float] = {}
        self._last_progress = time.monotonic()
        self._prefixes = prefixes
        self._salt = salt
        # at least one token has to run, or there would be nothing to sample from
        self._page_keys = page_keys(salt, session.tokens[:-1])
        self._reused = 0
        self._log = log.bind(session=session_id.hex()[:8])

    async def advance(self) -> list[int]:
        """Wait for something to happen; the tokens it brought, possibly none.

        Raises NoRoute while there has never been a route, else GenerationFailed.
        """
        if self._session.gaps and await self._close_gaps():
            return []
        try:
            async with asyncio.timeout(self._patience()):
                event = await self._inbox.get()
        except TimeoutError:
            self._out_of_patience()
            return []
        return self._perform(self._handle(event))

    def close(self) -> None:
        """Free the session everywhere; its route may keep what it has read for a text like it."""
        keys = page_keys(self._salt, self._session.tokens[: self._session.confirmed])
        self._prefixes.remember(self._session.route, keys)
        self._links.close_session(self._id, self._touched, keys)
        self._checkpoints.drop(self._id)

    def _patience(self) -> float:
        """Seconds until silence has lasted too long."""
        limits = self._limits
        gaps = self._session.gaps
        limit = limits.recovery_timeout_seconds if gaps else limits.step_timeout_seconds
        return max(0.0, self._last_progress + limit - time.monotonic())

    def _out_of_patience(self) -> None:
        if self._session.gaps:
            gaps = ", ".join(map(str, self._session.gaps))
            raise GenerationFailed(
                "worker_lost",
                f"no worker took over blocks {gaps} within "
                f"{self._limits.recovery_timeout_seconds:.0f} s",
            )
        if suspect := self._session.suspect():
            self._log.warning("step_timed_out", worker=suspect)
            self._lose(suspect)

    async def _close_gaps(self) -> bool:
        """Try to find workers for a gap; whether that went well or is worth trying again now."""
        gap = self._session.gaps[0]
        try:
            hops = self._plan(gap)
        except NoRoute:
            if not self._touched:
                raise
            return False
        try:
            await self._links.prepare(hops)
        except PeerUnreachable:
            return True  # it is avoided from now on
        if gap in self._session.gaps:
            self._log.debug("rerouted", span=str(gap), hops=[str(hop.span) for hop in hops])
            self._touched |= {hop.worker for hop in hops}
            self._progressed()
            if not self._session.route:
                self._reused = self._prefixes.reusable(hops, self._page_keys)
            self._perform(self._session.rerouted(gap, hops, reused=self._reused))
        return True

    def _plan(self, gap: Span) -> Route:
        now = time.monotonic()
        self._avoided_until = {p: t for p, t in self._avoided_until.items() if t > now}
        return plan_route(
            {
                worker: announcement
                for worker, announcement in self._links.watcher.view.items()
                if announcement.num_blocks == self._spec.num_blocks
            },
            gap,
            avoid=self._avoided_until.keys() | self._links.avoided(),
            load={worker: status.sessions for worker, status in self._links.statuses.items()},
        )

    def _handle(self, event: Event) -> list[Action]:
        match event:
            case FrameArrived(worker=worker, frame=frame) if worker in self._touched:
                return self._hear(worker, frame)
            case WorkerLost(worker=worker):
                self._lose(worker)
            case ViewChanged() | FrameArrived():
                pass
        return []

    def _hear(self, worker: PeerId, frame: Frame) -> list[Action]:
        session = self._session
        match frame.message:
            case Tokens() as m:
                self._progressed()
                if max(m.token_ids) >= self._spec.vocab_size:
                    self._lose(worker)
                    return []
                actions = session.tokens_arrived(worker, m.epoch, m.position, m.token_ids)
                self._checkpoints.truncate(self._id, session.confirmed)
                return actions
            case Filled() as m:
                self._progressed()
                return session.filled(worker, m.epoch, m.block, m.position)
            case Checkpoint() as m:
                self._progressed()
                self._keep(worker, m, frame.payload)
            case Refused() as m:
                self._log.info("step_refused", worker=worker, reason=m.reason, detail=m.detail)
                self._has_less(worker, m)
                actions = session.refused(worker, m.epoch, m.reason, m.cached, m.lost)
                self._avoid_if_lost(m.lost if m.reason == "next_unreachable" else worker)
                return actions
            case message:
                raise ProtocolError(f"{type(message).__name__} is not about a session")
        return []

    def _has_less(self, worker: PeerId, refused: Refused) -> None:
        """A hop that has less of the prefix than we thought: the others' part is worth nothing."""
        if refused.reason == "position_gap" and refused.cached < self._reused:
            for hop in self._session.route:
                if hop.worker == worker:
                    kept = refused.cached // PREFIX_PAGE_TOKENS
                    self._prefixes.forget(hop, self._page_keys[kept:])

    def _keep(self, worker: PeerId, message: Checkpoint, payload: memoryview) -> None:
        expected = message.count * self._spec.hidden_size * DTYPE_BYTES[message.dtype]
        is_of_route = any(
            (hop.worker, hop.span.end) == (worker, message.block) for hop in self._session.route
        )
        if not is_of_route or len(payload) != expected:
            return
        count = self._session.checkpointed(
            worker, message.epoch, message.block, message.position, message.count
        )
        stretch = Stretch(message.position, message.count, message.dtype, payload)
        if part := stretch.head(message.position + count):
            self._checkpoints.add(self._id, message.block, part)

    def _lose(self, worker: PeerId) -> None:
        self._session.worker_lost(worker)
        self._avoid_if_lost(worker)

    def _avoid_if_lost(self, worker: PeerId) -> None:
        if self._session.is_lost(worker):
            self._avoided_until[worker] = time.monotonic() + FORGIVE_SECONDS

    def _progressed(self) -> None:
        self._last_progress = time.monotonic()

    def _perform(self, actions: list[Action]) -> list[int]:
        """Send what is to be sent; the tokens to emit."""
        fresh: list[int] = []
        for action in actions:
            match action:
                case Emit(token_ids=token_ids):
                    fresh.extend(token_ids)
                case Send():
                    self._send(action)
        return fresh

    def _send(self, send: Send) -> None:
        dtype, payload = self._inputs(send)
        end = send.position + send.count
        step = Step(
            session=self._id,
            epoch=send.epoch,
            gateway=self._links.peer,
            position=send.position,
            count=send.count,
            hops=send.hops,
            dtype=dtype,
            sample=tuple(range(end - 1 - len(send.guesses), end)) if send.sample else (),
            context=self._context if send.sample else b"",
            acknowledge=send.acknowledge,
            prefix=self._page_keys if send.position <= self._reused else (),
        )
        try:
            self._links.post(send.hops, step, payload)
        except PeerUnreachable as error:
            self._log.warning("step_not_sent", error=str(error))
            self._lose(send.hops[0].worker)

    def _inputs(self, send: Send) -> tuple[PayloadDtype, bytes]:
        block = send.hops[0].span.start
        end = send.position + send.count
        if block > 0:
            return self._checkpoints.rows(self._id, block, send.position, end)
        ids = array("i", self._session.tokens[send.position : end])
        ids.extend(send.guesses)
        if sys.byteorder == "big":
            ids.byteswap()
        return "int32", ids.tobytes()
