"""The shell of a generation: feeds a Session what happens and performs what it asks for."""

import asyncio
import hashlib
import math
import os
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import structlog

from gateway.checkpoints import Checkpoints, Stretch
from gateway.contexts import Contexts
from gateway.drafts import PromptLookup
from gateway.generation import Token
from gateway.links import Event, FrameArrived, Links, ViewChanged, WorkerLost
from gateway.patience import Patience
from gateway.prefixes import KnownPrefixes, page_keys
from gateway.session import Action, Emit, Send, Session
from shared.errors import GenerationFailed, NoRoute, PeerUnreachable, ProtocolError
from shared.routing import plan_route
from shared.swarm import ModelSpec, PeerId, Route, SessionId, Span
from shared.wire.codec import Frame, pack_ids
from shared.wire.messages import (
    PREFIX_PAGE_TOKENS,
    Checkpoint,
    Filled,
    PayloadDtype,
    Refused,
    Sampling,
    Step,
    Tokens,
    WireDtype,
    row_bytes,
)

log = structlog.get_logger()

SECRET_BYTES = 32
FORGIVE_SECONDS = 5.0
"""How long one session keeps away from a worker that failed it."""


@dataclass(frozen=True)
class Limits:
    """What an operator bounds a generation by, and how hop outputs travel."""

    chunk_tokens: int
    guess_tokens: int
    step_timeout_seconds: float
    recovery_timeout_seconds: float
    wire_dtype: WireDtype = "model"


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
    ) -> AsyncGenerator[Token, None]:
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
                for token in await generation.advance():
                    yield token
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
        self._contexts = Contexts(sampling, session.tokens)
        self._inbox = links.open_inbox(session_id)
        self._touched: set[PeerId] = set()
        self._avoided_until: dict[PeerId, float] = {}
        self._patience = Patience(
            limits.step_timeout_seconds, limits.recovery_timeout_seconds, time.monotonic()
        )
        self._accused: set[PeerId] = set()
        self._last_refusal = ""
        self._prefixes = prefixes
        self._salt = salt
        # at least one token has to run, or there would be nothing to sample from
        self._page_keys = page_keys(salt, session.tokens[:-1])
        self._reused = 0
        self._log = log.bind(session=session_id.hex()[:8])

    async def advance(self) -> list[Token]:
        """Wait for something to happen; the tokens it brought, possibly none.

        Raises NoRoute while there has never been a route, else GenerationFailed.
        """
        if self._session.gaps:
            self._check_trouble()
            if await self._close_gaps():
                return []
        has_gaps = bool(self._session.gaps)
        try:
            async with asyncio.timeout(self._patience.left(time.monotonic(), has_gaps=has_gaps)):
                event = await self._inbox.get()
        except TimeoutError:
            self._out_of_patience()
            return []
        before = self._session.num_advances
        fresh = self._perform(self._handle(event))
        if self._session.num_advances != before:
            self._patience.progressed(time.monotonic())
            self._links.forgive(hop.worker for hop in self._session.route)
        return fresh

    def close(self) -> None:
        """Free the session everywhere; its route may keep what it has read for a text like it."""
        keys = page_keys(self._salt, self._session.tokens[: self._session.confirmed])
        self._prefixes.remember(self._session.route, keys)
        self._links.close_session(self._id, self._touched, keys)
        self._checkpoints.drop(self._id)

    def _check_trouble(self) -> None:
        """Raises GenerationFailed when the route has been broken for too long."""
        if self._patience.is_over(time.monotonic()):
            gaps = ", ".join(map(str, self._session.gaps or [self._spec.blocks]))
            raise GenerationFailed(
                "worker_lost",
                f"no worker took over blocks {gaps} within "
                f"{self._limits.recovery_timeout_seconds:.0f} s{self._last_refusal}",
            )

    def _out_of_patience(self) -> None:
        self._check_trouble()
        suspect = self._session.suspect()
        if suspect and not self._session.gaps:
            self._log.warning("step_timed_out", worker=suspect)
            self._links.blame(suspect)
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
            self._patience.rerouted(time.monotonic())
            reused = self._prefixes.reusable(hops, self._page_keys)
            self._reused = max(self._reused, reused)
            self._perform(self._session.rerouted(gap, hops, reused=reused))
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
                if not self._contexts.is_answered(m, self._spec.vocab_size):
                    self._lose(worker)
                    return []
                actions = session.tokens_arrived(
                    worker, m.epoch, m.position, m.token_ids, m.logprobs
                )
                self._checkpoints.truncate(self._id, session.confirmed)
                return actions
            case Filled() as m:
                return session.filled(worker, m.epoch, m.block, m.position)
            case Checkpoint() as m:
                self._keep(worker, m, frame.payload)
            case Refused() as m:
                self._log.info("step_refused", worker=worker, reason=m.reason, detail=m.detail)
                self._has_less(worker, m)
                self._cannot_be_done(worker, m)
                blamed = self._to_blame(worker, m)
                actions = session.refused(worker, m.epoch, m.reason, m.cached, blamed)
                # what a worker cannot do it will not learn within the session
                seconds = math.inf if m.reason == "no_grammars" else FORGIVE_SECONDS
                self._avoid_if_lost(blamed, seconds)
                return actions
            case message:
                raise ProtocolError(f"{type(message).__name__} is not about a session")
        return []

    def _to_blame(self, worker: PeerId, refused: Refused) -> PeerId:
        """Whom a refusal speaks against.

        A worker that cannot reach the next hop is believed when we cannot reach it either, or
        when another one has said so before: else the fault may as well be its own.
        """
        accused = refused.lost
        if refused.reason != "next_unreachable":
            return worker
        if not self._session.is_next(worker, accused):
            return worker
        if accused in self._links.linked() and accused not in self._accused:
            self._accused.add(accused)
            return worker
        return accused

    def _has_less(self, worker: PeerId, refused: Refused) -> None:
        """A hop that has less of the prefix than we thought: the others' part is worth nothing."""
        if refused.reason == "position_gap" and refused.cached < self._reused:
            for hop in self._session.route:
                if hop.worker == worker:
                    kept = refused.cached // PREFIX_PAGE_TOKENS
                    self._prefixes.forget(hop, self._page_keys[kept:])

    def _cannot_be_done(self, worker: PeerId, refused: Refused) -> None:
        """Raises GenerationFailed when any other worker would refuse as well."""
        is_current = refused.epoch == self._session.epoch
        if is_current and any(hop.worker == worker for hop in self._session.route):
            if refused.reason == "bad_sampling":
                raise GenerationFailed("bad_sampling", refused.detail)
            self._last_refusal = f"; the last one refused: {refused.detail}"

    def _keep(self, worker: PeerId, message: Checkpoint, payload: memoryview) -> None:
        expected = message.count * row_bytes(message.dtype, self._spec.hidden_size)
        is_of_route = any(
            (hop.worker, hop.span.end) == (worker, message.block) for hop in self._session.route
        )
        is_of_text = message.position + message.count <= self._session.sent
        if not (is_of_route and is_of_text) or len(payload) != expected:
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

    def _avoid_if_lost(self, worker: PeerId, seconds: float = FORGIVE_SECONDS) -> None:
        if self._session.is_lost(worker):
            now = time.monotonic()
            self._patience.lost(now)
            self._avoided_until[worker] = now + seconds

    def _perform(self, actions: list[Action]) -> list[Token]:
        """Send what is to be sent; the tokens to emit."""
        fresh: list[Token] = []
        for action in actions:
            match action:
                case Emit(token_ids=token_ids, logprobs=()):
                    fresh.extend(map(Token, token_ids))
                case Emit(token_ids=token_ids, logprobs=logprobs):
                    fresh.extend(map(Token, token_ids, logprobs))
                case Send():
                    self._send(action)
        return fresh

    def _send(self, send: Send) -> None:
        dtype, payload = self._inputs(send)
        end = send.position + send.count
        tokens = self._session.tokens
        step = Step(
            session=self._id,
            epoch=send.epoch,
            gateway=self._links.peer,
            position=send.position,
            count=send.count,
            hops=send.hops,
            dtype=dtype,
            sample=tuple(range(end - 1 - len(send.guesses), end)) if send.sample else (),
            context=self._contexts.context(tokens, send.guesses) if send.sample else b"",
            acknowledge=send.acknowledge,
            prefix=self._page_keys if send.position <= self._reused else (),
            wire_dtype=self._limits.wire_dtype,
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
        return "int32", pack_ids([*self._session.tokens[send.position : end], *send.guesses])
