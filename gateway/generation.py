"""The shell of one generation: feeds its Session what happens and performs what that asks for."""

import asyncio
import os
import time

import structlog

from gateway.actions import Action, Emit, EmitScores, Send
from gateway.blame import Blame
from gateway.checkpoints import Stretch
from gateway.contexts import Contexts
from gateway.drafts import PromptLookup
from gateway.generator import Token
from gateway.inbox import Accused, Event, FrameArrived, ShadowsFound, ViewChanged, WorkerLost
from gateway.means import Means
from gateway.outbox import Outbox
from gateway.patience import Patience
from gateway.prefixes import page_keys
from gateway.reader import Reader
from gateway.scout import Scout, Wish
from gateway.session import Session
from shared.errors import (
    CheckpointLost,
    GenerationFailed,
    NoRoute,
    PeerUnreachable,
    ProtocolError,
    RefusalCode,
)
from shared.swarm import Hop, PeerId, Route, SessionId, spliced
from shared.wire.codec import Frame
from shared.wire.messages import (
    MAX_GATHERED_TOKENS,
    PREFIX_PAGE_TOKENS,
    Checkpoint,
    Filled,
    PayloadDtype,
    Refused,
    Sampling,
    Scores,
    States,
    TokenLogprobs,
    Tokens,
    row_bytes,
)

log = structlog.get_logger()

PROBE_SECONDS = 1.0
"""How long a worker that another cannot reach may take to say that it is there."""


class Generation:
    """One session's dealings with the swarm."""

    def __init__(
        self,
        means: Means,
        prompt: tuple[int, ...],
        *,
        sampling: Sampling,
        max_tokens: int,
        stop_ids: frozenset[int],
        salt: bytes,
        made: tuple[int, ...] = (),
        reader: Reader | None = None,
    ) -> None:
        limits, most = means.limits, means.limits.chunk_tokens
        # where only the trusted may serve the ends of a text's route, they must be the model's
        blocks = reader.span if reader and limits.trusted is None else means.spec.blocks
        # what was made before came with the scores
        is_scored = sampling.num_prompt_logprobs is not None and not made
        self._id = SessionId(os.urandom(16))
        self._spec = means.spec
        self._links = means.links
        self._checkpoints = means.checkpoints
        self._prefixes = means.prefixes
        self._metrics = means.metrics
        self._limits = limits
        self._session = Session(
            prompt,
            blocks,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            chunk_tokens=reader.step_tokens(most) if reader else most,
            held=self._held,
            propose=PromptLookup(limits.guess_tokens).propose,
            made=made,
            num_scored=len(prompt) if is_scored else 0,
            reader=reader,
        )
        self._reader = reader
        self._contexts = Contexts(sampling, prompt)
        self._outbox = Outbox(means, self._id, self._session, self._contexts)
        self._scores: list[TokenLogprobs] = []
        self._inbox = means.links.open_inbox(self._id)
        self._checkpoints.open(self._id)
        self._touched: set[PeerId] = set()
        self._blame = Blame()
        self._scout = Scout(
            means.links,
            self._blame,
            self._wish,
            num_blocks=means.spec.num_blocks,
            trusted=limits.trusted,
        )
        self._patience = Patience(
            limits.step_timeout_seconds, limits.recovery_timeout_seconds, time.monotonic()
        )
        self._has_just_progressed = False
        self._seekers: dict[Hop, asyncio.Task[Route]] = {}
        self._probes: dict[PeerId, asyncio.Task[bool]] = {}
        self._last_refusal = ""
        self._salt = salt
        # at least one token has to run, or there would be nothing to sample from, and all that is
        # scored or read has to
        is_run = is_scored or reader is not None
        self._page_keys = () if is_run else page_keys(salt, self._session.tokens[:-1])
        self._reused = 0
        self._log = log.bind(session=self._id.hex()[:8])

    @property
    def is_over(self) -> bool:
        """Whether the last token is made, or all is read."""
        return self._session.is_over

    @property
    def num_reused(self) -> int:
        """How many of the prompt's first tokens some worker did not have to run again."""
        return self._reused

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs, ...]:
        """Those of the prompt's tokens but the first, where asked for; whole when a token is."""
        return tuple(self._scores)

    async def advance(self) -> list[Token]:
        """Wait for something to happen; the tokens it brought, possibly none.

        Raises NoRoute while there has never been a route, else GenerationFailed.
        """
        wait = self._copy_seconds()
        if self._session.gaps:
            self._check_trouble()
            if not wait and await self._close_gaps():
                return []
        self._seek_shadows()
        if self._patience.has_settled and not self._session.gaps:
            self._scout.foresee(self._session.route)
        has_just_progressed, self._has_just_progressed = self._has_just_progressed, False
        if not wait:  # how long exactly is seldom asked, and takes longer
            wait = self._patience.least_seconds if has_just_progressed else self._seconds_left()
        try:
            event = await self._inbox.get(wait)
        except TimeoutError:
            return [] if has_just_progressed else self._perform(self._out_of_patience())
        before = self._session.num_advances
        fresh = self._perform(self._handle(event))
        if self._session.num_advances != before:
            self._patience.progressed(time.monotonic(), has_gaps=bool(self._session.gaps))
            self._has_just_progressed = True
            self._links.forgive(hop.worker for hop in self._session.route)
        self._release()
        return fresh

    def close(self) -> None:
        """Free the session everywhere; its route may keep what it has read for a text like it."""
        for task in (*self._seekers.values(), *self._probes.values()):
            task.cancel()
        guesses = self._session.guesses
        self._metrics.guessed.inc(guesses.num_guessed)
        self._metrics.guessed_right.inc(guesses.num_right)
        self._metrics.takeovers.labels("leave").inc(self._session.num_moves)
        self._metrics.dropped_copies.inc(self._inbox.num_dropped)
        known = [] if self._reader else self._session.tokens[: self._session.confirmed]
        keys = page_keys(self._salt, known)
        self._prefixes.remember(self._session.route, keys)
        self._links.close_session(self._id, self._touched, keys)
        self._checkpoints.keep(self._id, keys)

    def _held(self, block: int) -> int:
        if block == 0:
            return len(self._session.tokens)
        return self._checkpoints.held(self._id, block)

    def _seconds_left(self) -> float:
        if not self._touched:
            return self._links.unsettled_seconds
        busy = self._links.surveyor.busy_seconds
        return self._patience.left(
            time.monotonic(),
            has_gaps=bool(self._session.gaps),
            busy_seconds=busy(self._session.route) if self._session.is_decoding else None,
        )

    def _copy_seconds(self) -> float:
        """How long a gap may stay open for what the hop before it is about to copy."""
        session = self._session
        if len(session.gaps) != 1 or not 0 < session.confirmed == len(session.tokens) - 1:
            return 0.0
        lacking = session.sent - self._held(session.gaps[0].start)
        if session.is_shadowed or not 0 < lacking <= MAX_GATHERED_TOKENS:
            return 0.0
        return self._patience.copy_left(time.monotonic(), len(session.route))

    def _check_trouble(self) -> None:
        """Raises GenerationFailed when the route has been broken for too long."""
        if self._patience.is_over(time.monotonic()):
            gaps = ", ".join(map(str, self._session.gaps or [self._spec.blocks]))
            raise GenerationFailed(
                "worker_lost",
                f"no worker took over blocks {gaps} within "
                f"{self._limits.recovery_timeout_seconds:.0f} s{self._last_refusal}",
            )

    def _out_of_patience(self) -> list[Action]:
        """A slow worker is routed around if that is possible; a silent one is blamed."""
        self._check_trouble()
        suspect = self._session.suspect()
        if suspect is None or self._session.gaps:
            return []
        if self._patience.is_silent(time.monotonic()):
            self._log.warning("step_timed_out", worker=suspect)
            self._links.blame(suspect)
            return self._lose(suspect)
        if self._scout.can_do_without(suspect, self._session.route):
            self._log.info("step_is_slow", worker=suspect)
            return self._lose(suspect)
        self._patience.no_others()
        return []

    async def _close_gaps(self) -> bool:
        """Try to find workers for a gap; whether that went well or is worth trying again now."""
        gap = self._session.gaps[0]
        stand_ins = self._session.stand_ins(gap)
        try:
            kept = self._prefixes.kept(self._page_keys)
            hops = stand_ins or self._scout.find(gap, self._session.route, kept=kept)
        except NoRoute:
            if not (self._touched or self._links.unsettled_seconds):
                raise
            return False
        try:
            await self._links.prepare(hops)
        except PeerUnreachable as error:
            self._log.debug("newcomer_unreachable", error=str(error))
            return True  # it is avoided from now on
        if gap in self._session.gaps:
            self._log.debug("rerouted", span=str(gap), hops=[str(hop.span) for hop in hops])
            if self._touched:
                self._metrics.takeovers.labels("standby" if stand_ins else "loss").inc()
            actions = self._session.rerouted(gap, hops, reused=self._reuse(hops))
            self._links.acquaint(self._session.route)
            self._perform(actions)
            self._release()
        return True

    def _reuse(self, hops: Route) -> int:
        """Take on hops; how many first tokens they should still have from another session."""
        self._touch(hops)
        self._patience.rerouted(time.monotonic())
        reused = self._prefixes.reusable(hops, self._page_keys)
        if not self._session.route:
            self._checkpoints.adopt(self._id, self._page_keys[: reused // PREFIX_PAGE_TOKENS])
        self._reused = max(self._reused, reused)
        return reused

    def _touch(self, hops: Route) -> None:
        """Hops are about to be sent steps."""
        self._touched |= {hop.worker for hop in hops}
        self._links.surveyor.engaged(self._id, self._touched)

    def _wish(self) -> Wish:
        dtype: PayloadDtype = "int8b64" if self._limits.wire_dtype == "int8" else "bfloat16"
        return Wish(
            text_tokens=len(self._session.tokens),
            more_tokens=self._session.num_left,
            row_bytes=row_bytes(dtype, self._spec.hidden_size),
        )

    def _seek_shadows(self) -> None:
        """Look for workers to shadow the hops that are about to leave, or all that have none."""
        session = self._session
        if session.gaps or not (self._limits.has_standbys or self._links.leaving):
            return
        for hop in session.route:
            is_leaving = hop.worker in self._links.leaving
            if shadow := session.shadow_of(hop):
                shadow.takes_over |= is_leaving
            elif (is_leaving or self._limits.has_standbys) and self._can_shadow(hop):
                self._seek(hop)

    def _seek(self, hop: Hop) -> None:
        """Off the path of the tokens: a dial may take seconds."""
        seeking = asyncio.create_task(
            self._scout.seek_beside(hop, self._session.route, self._session.workers)
        )
        seeking.add_done_callback(
            lambda done: done.cancelled() or self._inbox.put(ShadowsFound(hop, done.result()))
        )
        self._seekers[hop] = seeking

    def _can_shadow(self, hop: Hop) -> bool:
        """Whether the hop's inputs are held, and nobody seeks yet."""
        held = self._held(hop.span.start) + MAX_GATHERED_TOKENS
        return hop not in self._seekers and 0 < self._session.confirmed <= held

    def _handle(self, event: Event) -> list[Action]:
        match event:
            case FrameArrived(worker=worker, frame=frame) if worker in self._touched:
                return self._hear(worker, frame)
            case WorkerLost(worker=worker):
                # not avoided: it is out of the view until it announces itself anew
                return self._lose(worker, is_avoided=False)
            case ShadowsFound(hop=hop, hops=hops):
                del self._seekers[hop]
                if hops:
                    self._touch(hops)
                    self._links.acquaint(spliced(self._session.route, hop.span, hops))
                    takes_over = hop.worker in self._links.leaving
                    return self._session.shadow(hop, hops, takes_over=takes_over)
            case Accused(worker=worker, refusal=refusal, answers=answers):
                del self._probes[refusal.lost]
                return self._judge(worker, refusal, is_likely=not answers)
            case ViewChanged() | FrameArrived():
                pass
        return []

    def _hear(self, worker: PeerId, frame: Frame) -> list[Action]:
        match frame.message:
            case Tokens() as m:
                return self._take(worker, m)
            case Scores() as m:
                return self._take_scores(worker, m)
            case States() as m:
                return self._take_states(worker, m, frame.payload)
            case Filled() as m:
                return self._session.filled(worker, m.epoch, m.block, m.position)
            case Checkpoint() as m:
                return self._keep(worker, m, frame.payload)
            case Refused() as m:
                return self._refused(worker, m)
            case message:
                raise ProtocolError(f"{type(message).__name__} is not about a session")

    def _take(self, worker: PeerId, tokens: Tokens) -> list[Action]:
        session = self._session
        if not self._contexts.is_answered(tokens, self._spec.vocab_size):
            self._log.warning("answer_makes_no_sense", worker=worker)
            return self._lose(worker)
        actions = session.tokens_arrived(
            worker, tokens.epoch, tokens.position, tokens.token_ids, tokens.logprobs
        )
        if actions:
            self._patience.answered(time.monotonic())
        self._checkpoints.truncate(self._id, session.confirmed)
        return actions

    def _take_scores(self, worker: PeerId, scores: Scores) -> list[Action]:
        if not self._contexts.is_scored(scores, self._spec.vocab_size):
            self._log.warning("scores_make_no_sense", worker=worker)
            return self._lose(worker)
        return self._session.scores_arrived(worker, scores.epoch, scores.position, scores.logprobs)

    def _take_states(self, worker: PeerId, states: States, payload: memoryview) -> list[Action]:
        if self._reader is None or not self._reader.fits(states, len(payload)):
            self._log.warning("states_make_no_sense", worker=worker)
            return self._lose(worker)
        return self._session.states_arrived(worker, states, payload)

    def _refused(self, worker: PeerId, refused: Refused) -> list[Action]:
        self._log.info("step_refused", worker=worker, reason=refused.reason, detail=refused.detail)
        if refused.reason == "next_unreachable" and 0 < refused.cached <= self._session.confirmed:
            return []  # a link that broke after it had carried the step
        if refused.reason == "next_unreachable" and self._session.is_next(worker, refused.lost):
            self._probe(worker, refused)
            return []
        return self._judge(worker, refused)

    def _probe(self, worker: PeerId, refused: Refused) -> None:
        """Ask the hop that could not be reached. That it is lost may be known to others before us,
        and to replace whoever says so would cost a second refill."""
        if refused.lost in self._probes:
            return  # it is another step that could not be pushed
        probe = asyncio.create_task(self._links.answers(refused.lost, PROBE_SECONDS))
        probe.add_done_callback(
            lambda done: (
                done.cancelled() or self._inbox.put(Accused(worker, refused, done.result()))
            )
        )
        self._probes[refused.lost] = probe

    def _judge(self, worker: PeerId, refused: Refused, *, is_likely: bool = False) -> list[Action]:
        """Who is lost to the session by a refusal."""
        self._has_less(worker, refused)
        self._cannot_be_done(worker, refused)
        blamed = self._to_blame(worker, refused, is_likely=is_likely)
        actions = self._session.refused(
            worker, refused.epoch, refused.reason, refused.cached, blamed
        )
        self._note_loss(blamed, refused.reason)
        return actions

    def _to_blame(self, worker: PeerId, refused: Refused, *, is_likely: bool) -> PeerId:
        """Whom a refusal speaks against; `is_likely` that it is right about another hop."""
        if refused.reason == "bad_inputs" and (before := self._session.before(worker)):
            self._checkpoints.forget(self._id, before.span.end)
            return self._blame.between(worker, before.worker, is_likely=False)
        if refused.reason == "next_unreachable" and self._session.is_next(worker, refused.lost):
            return self._blame.between(worker, refused.lost, is_likely=is_likely)
        return worker

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

    def _keep(self, worker: PeerId, message: Checkpoint, payload: memoryview) -> list[Action]:
        session = self._session
        if not session.pushes(worker, message.block):
            return []
        if message.position + message.count > session.sent:
            return []
        if len(payload) != message.count * row_bytes(message.dtype, self._spec.hidden_size):
            self._log.warning("copy_of_wrong_size", worker=worker, bytes=len(payload))
            return self._lose(worker)
        count = session.checkpointed(
            worker, message.epoch, message.block, message.position, message.count
        )
        stretch = Stretch(message.position, message.count, message.dtype, payload)
        if part := stretch.head(message.position + count):
            self._checkpoints.add(self._id, message.block, part)
        return session.feed_shadows() if session.is_shadowed else []

    def _lose(self, worker: PeerId, *, is_avoided: bool = True) -> list[Action]:
        actions = self._session.worker_lost(worker)
        self._note_loss(worker, is_avoided=is_avoided)
        return actions

    def _note_loss(
        self, worker: PeerId, reason: RefusalCode | None = None, *, is_avoided: bool = True
    ) -> None:
        if self._session.is_lost(worker):
            now = time.monotonic()
            self._patience.lost(now)
            if is_avoided:
                self._blame.avoid(worker, reason, now)

    def _release(self) -> None:
        """Free the session on workers that have no part in it any more."""
        gone = self._touched - self._session.workers if self._session.route else set[PeerId]()
        if gone:
            self._links.release(self._id, gone, self._session.last_epoch)
            self._touched -= gone
            self._links.surveyor.engaged(self._id, self._touched)

    def _perform(self, actions: list[Action]) -> list[Token]:
        """Send what is to be sent; the tokens to emit."""
        fresh: list[Token] = []
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Emit(token_ids=token_ids, logprobs=()):
                    fresh.extend(map(Token, token_ids))
                case Emit(token_ids=token_ids, logprobs=logprobs):
                    fresh.extend(map(Token, token_ids, logprobs))
                case EmitScores(logprobs=logprobs):
                    self._scores.extend(logprobs)
        if fresh:
            self._metrics.tokens.inc(len(fresh))
        return fresh

    def _send(self, send: Send) -> None:
        prefix = self._page_keys if send.position <= self._reused else ()
        try:
            self._outbox.post(send, prefix)
        except PeerUnreachable as error:
            self._log.warning("step_not_sent", error=str(error))
            self._perform(self._lose(send.hops[0].worker))
        except CheckpointLost as error:
            hop = send.hops[0]
            self._log.warning("checkpoint_lost", block=hop.span.start, error=str(error))
            self._checkpoints.forget(self._id, hop.span.start)
            # from further upstream, as if the hop had said that it has no more than that
            has_no_more = (hop.worker, send.epoch, "position_gap", send.position, hop.worker)
            self._perform(self._session.refused(*has_no_more))
            self._note_loss(hop.worker, is_avoided=False)
