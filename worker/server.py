"""The shell of a worker: frames in, sessions, engine, then the next hop and the gateway.

Everything here runs on the event loop. The engine's callbacks come from its own thread and are
carried over by `call_soon_threadsafe`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Protocol

import msgspec
import structlog

from shared.dial_back import DialBacks
from shared.errors import PeerUnreachable, ProtocolError, StepRefused
from shared.grants import is_granted
from shared.hosts import Realm
from shared.identity import Identity
from shared.secret import SwarmSecret
from shared.swarm import PeerId, SessionId
from shared.wire.codec import Frame, decode, encode
from shared.wire.link import Link, LinkPool
from shared.wire.messages import (
    Checkpoint,
    Close,
    DialBack,
    DialledBack,
    Filled,
    Hello,
    Introduce,
    Message,
    Proof,
    Refused,
    Relay,
    Sampling,
    SamplingContext,
    Scores,
    States,
    Status,
    Step,
    Tokens,
    row_bytes,
)
from worker.copies import GATHER_SECONDS, Copies
from worker.engine import Engine
from worker.neighbours import Neighbours, Push
from worker.parts import PartKey, part_of
from worker.reading import check
from worker.scoring import MAX_SCORED
from worker.sessions import Sessions
from worker.steps import pieces
from worker.work import Outcome, Work

log = structlog.get_logger()

TELL_SECONDS = 0.01
"""Until gateways are told how many sessions there are, after one has come or gone."""
ORPHAN_SECONDS = 30.0
"""How long the sessions of a gateway whose link broke are kept for its return."""

NOBODY = PeerId("")
MAX_QUEUED_BYTES = 512 << 20
"""Inputs of waiting steps; more are refused."""

GREEDY = SamplingContext(Sampling(temperature=0))

_decode_context = msgspec.msgpack.Decoder(SamplingContext).decode


class Shape(Protocol):
    """What the server must know of the model to judge a step."""

    @property
    def num_blocks(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def batches(self) -> bool: ...


class WorkerServer:
    """Answers the frames of gateways and neighbours."""

    def __init__(
        self,
        identity: Identity,
        swarm: str,
        *,
        shape: Shape,
        sessions: Sessions,
        engine: Engine,
        clock: Callable[[], float] = time.monotonic,
        secret: SwarmSecret | None = None,
        reach: Realm = "loopback",
    ) -> None:
        self.pool = LinkPool(
            identity,
            swarm,
            on_frame=self._on_frame,
            on_lost=self._on_lost,
            secret=secret,
            reach=reach,
        )
        self.sessions = sessions
        self._identity = identity
        self._shape = shape
        self._engine = engine
        sessions.address_of = self.pool.address_of
        self._clock = clock
        self._neighbours = Neighbours(self.pool)
        self.dial_backs = DialBacks(self.pool)
        self.on_lost: Callable[[PeerId], None] = lambda peer: None
        """Called when the last link to anybody has ended."""
        self._gateways: set[PeerId] = set()
        self._loop = asyncio.get_running_loop()
        self._copies = Copies(self._answer)
        self._flush: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._pushed: dict[PartKey, Step] = {}

    @property
    def status(self) -> Status:
        """What this worker says of its load."""
        return Status(
            sessions=len(self.sessions),
            queued_steps=self._engine.queued,
            pages_free=self.sessions.pages_available,
            pages_total=self.sessions.pages_total,
            leaving=self.sessions.is_draining,
            decode_seconds=self._engine.decode_seconds,
            slowest_seconds=self._engine.slowest_seconds,
            queued_tokens=self._engine.queued_tokens,
            busy=self._engine.busy,
            bytes_per_second=max(
                (link.quality.bytes_per_second for link in self.pool.open_links()), default=0.0
            ),
        )

    @property
    def is_needed(self) -> bool:
        """Whether a gateway that is still linked has sessions here."""
        return bool(self._gateways) and len(self.sessions) > 0

    def tell_gateways(self, *, with_neighbours: bool = False) -> None:
        """Send every linked gateway our status, and how far our neighbours are if it has to know.

        Those go along only now and then, as they are many and change little.
        """
        status = self.status
        if with_neighbours:
            status = msgspec.structs.replace(
                status, neighbours=self._neighbours.delays(self._gateways)
            )
        for gateway in self._gateways:
            self._answer(gateway, status)

    def _tell_soon(self) -> None:
        """Tell the gateways of sessions that came or went: once for many, and after their steps."""
        if self._telling is None:
            self._telling = self._loop.call_later(TELL_SECONDS, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self.tell_gateways()

    def expire_sessions(self) -> None:
        """Free what nobody has stepped for a lease."""
        if freed := self.sessions.expire(self._clock()):
            log.info("sessions_expired", parts=len(freed))
            self._free(freed)
            self.tell_gateways()

    def _on_frame(self, link: Link, frame: Frame) -> None:
        match frame.message:
            case Step() as step:
                self._on_step(step, frame.payload, link.peer)
            case Close() as close:
                self._on_close(close, link.peer)
            case Introduce() as introduce:
                self._on_introduce(introduce, link.peer)
            case Relay() as relay:
                self._on_relayed(relay, frame.payload, link.peer)
            case DialledBack() as answer:
                self.dial_backs.heard(link.peer, answer)
            case Status():
                pass  # a worker that dialled us may take us for a gateway
            case Hello() | Proof() | Checkpoint() | Refused() | DialBack() as m:
                raise ProtocolError(f"a worker takes no {type(m).__name__}")
            case Tokens() | Scores() | States() | Filled() as m:
                raise ProtocolError(f"a worker takes no {type(m).__name__}")

    def _on_introduce(self, introduce: Introduce, gateway: PeerId) -> None:
        self._gateways.add(gateway)
        for record in introduce.records:
            worker = self._neighbours.introduce(gateway, record)
            if introduce.dial and worker:
                self._neighbours.dial(gateway, worker)
        self._answer(gateway, self.status)

    def _on_relayed(self, relay: Relay, payload: memoryview, gateway: PeerId) -> None:
        """A step that a worker without a link to us handed to the gateway, of its own session."""
        try:
            inner = decode(payload)
        except ProtocolError as error:
            self._refuse_relayed(relay, gateway, str(error))
            return
        step = inner.message
        if not isinstance(step, Step):
            self._refuse_relayed(relay, gateway, f"{type(step).__name__} is not passed on")
        elif (step.gateway, step.session) != (gateway, relay.session):
            self._refuse_relayed(relay, gateway, "the step is of another session")
        else:
            self._on_step(step, inner.payload, relay.worker)

    def _refuse_relayed(self, relay: Relay, gateway: PeerId, why: str) -> None:
        """Neither the gateway nor we can have known it before."""
        log.warning("relayed_frame_refused", sender=relay.worker, gateway=gateway, error=why)
        detail = f"{relay.worker} sent through the gateway: {why}"[:1024]
        peer = self._identity.peer
        self._answer(gateway, Refused(relay.session, relay.epoch, peer, "bad_inputs", detail))

    def _relay(self, step: Step, frame: bytes) -> None:
        """Hand a step to its gateway, for the next worker. Raises PeerUnreachable."""
        self._pushed.pop(part_of(step), None)  # the gateway knows whether that one is there
        link = self.pool.get(step.gateway)
        if link is None:
            raise PeerUnreachable(f"no link to {step.gateway}")
        link.post(Relay(step.session, step.epoch, step.hops[1].worker), frame)

    def _on_lost(self, peer: PeerId) -> None:
        self.on_lost(peer)
        self._gateways.discard(peer)
        self._neighbours.forget(peer)
        self._copies.flush()  # if it was the next hop, gateways are about to need them
        self._report_pushes(peer)
        self.sessions.orphan(peer, self._clock() + ORPHAN_SECONDS)

    def _report_pushes(self, peer: PeerId) -> None:
        """Steps pushed over a link that broke may never have arrived."""
        lost = {key: step for key, step in self._pushed.items() if step.hops[1].worker == peer}
        for key, step in lost.items():
            del self._pushed[key]
            end = step.position + step.count
            error = StepRefused("next_unreachable", "the link broke", cached=end)
            self._tell_refused(step, error, lost=peer)

    def _free(self, parts: Sequence[PartKey]) -> None:
        self._engine.free(parts)
        for key in parts:
            self._pushed.pop(key, None)

    def _on_close(self, close: Close, gateway: PeerId) -> None:
        session = SessionId(close.session)
        self._copies.drop(session)
        self._neighbours.over(close.session)
        # a cache of transformers' own cannot be begun with a part of another
        prefix = close.prefix if self._shape.batches else ()
        kept = self.sessions.keep(session, gateway, prefix)
        self._engine.keep(kept)
        for part, _ in kept:
            self._pushed.pop(part, None)
        freed = self.sessions.close(session, gateway, close.epoch)
        self._free(freed + self.sessions.take_evicted())
        if kept or freed:
            self._tell_soon()

    def _on_step(self, step: Step, payload: memoryview, sender: PeerId) -> None:
        """Take a step that its gateway sent, or a worker that ran the hop before."""
        if self.pool.get(step.gateway) is None:
            log.info("step_of_stranger", gateway=step.gateway)
            return  # nobody to answer to, and nobody whose leaving would free the session
        if sender != step.gateway and not self._is_granted(step):
            log.warning("step_without_grant", sender=sender, gateway=step.gateway)
            return  # the gateway it names has not asked for it
        num_sessions = len(self.sessions)
        try:
            self._check(step, payload)
            self._check_queue(step.gateway, len(payload))
            context = _context_of(step) if len(step.hops) == 1 else GREEDY
            most = self._engine.max_step_tokens
            if context.scoring:
                most = min(most, MAX_SCORED)
            if step.read:
                at_once = step.read.rows_at_once(self._shape.hidden_size, self._shape.vocab_size)
                most = most if len(step.read.positions) <= at_once else min(most, at_once)
            for piece, rows in pieces(step, payload, most):
                self._run(piece, rows, context)
        except StepRefused as error:
            self._refuse(step, error)
        self._make_room()
        if len(self.sessions) != num_sessions:
            self._tell_soon()

    def _run(self, step: Step, payload: memoryview, context: SamplingContext) -> None:
        part = self.sessions.admit(step, self._clock())
        if part is None:
            return  # a route the session has left
        key = part_of(step)
        if part.adopts:
            tokens = min(part.adopts.tokens, step.position)
            self._engine.adopt(part.adopts.source, key, tokens, part.pages)
        self._make_room()  # before the step that gets it
        post = self._loop.call_soon_threadsafe
        self._engine.submit(
            Work(
                key=key,
                position=step.position,
                count=step.count,
                pages=part.pages,
                payload=payload,
                dtype=step.dtype,
                sample=step.sample if len(step.hops) == 1 else (),
                context=context,
                wire_dtype=step.wire_dtype,
                gateway=step.gateway,
                read=step.read,
                goes_on=len(step.hops) > 1,
                on_done=lambda outcome: post(self._on_done, step, outcome),
                on_failed=lambda error: post(self._on_failed, step, error),
            )
        )

    def _make_room(self) -> None:
        """Free what the sessions have let go of, and tell those it was taken from."""
        self._free(self.sessions.take_evicted())
        revoked = self.sessions.take_revoked()
        self._free([key for key, _ in revoked])
        for (session, _), part in revoked:
            detail = "others need the room, and this gateway holds more than its share"
            refused = Refused(session, part.epoch, self._identity.peer, "no_pages", detail)
            self._engine.metrics.refusals.labels("no_pages").inc()
            self._answer(part.gateway, refused)

    def _is_granted(self, step: Step) -> bool:
        """Whether a step that came from another worker is its gateway's own."""
        if part_of(step) in self.sessions:
            return True  # it was when the session began, and its id is known to its route alone
        session, (signature, *_) = SessionId(step.session), step.grants or (b"",)
        return is_granted(step.gateway, session, self._identity.peer, signature)

    def _check_queue(self, gateway: PeerId, num_bytes: int) -> None:
        """Raises StepRefused when too much waits; some room is always left for other gateways."""
        left = MAX_QUEUED_BYTES - self._engine.queued_bytes() - num_bytes
        if left < 0 or self._engine.queued_bytes(gateway) + num_bytes > left:
            raise StepRefused("no_pages", "too many steps of this gateway are waiting already")

    def _check(self, step: Step, payload: memoryview) -> None:
        """Raises StepRefused when a step cannot be right, before anything is kept of it."""
        hop = step.hops[0]
        if hop.worker != self._identity.peer:
            raise StepRefused("bad_step", f"the step is for {hop.worker}")
        if hop.span.end > self._shape.num_blocks:
            raise StepRefused("bad_step", f"blocks {hop.span} of {self._shape.num_blocks}")
        is_first = hop.span.start == 0
        if is_first != (step.dtype == "int32"):
            raise StepRefused("bad_step", f"{step.dtype} is not what block {hop.span.start} takes")
        width = 1 if is_first else self._shape.hidden_size
        expected = step.count * row_bytes(step.dtype, width)
        if len(payload) != expected:
            raise StepRefused("bad_step", f"payload of {len(payload)} bytes, not {expected}")
        end = step.position + step.count
        if end > self._shape.max_positions:
            raise StepRefused("bad_step", f"ends at {end} of {self._shape.max_positions} positions")
        if any(not step.position <= position < end for position in step.sample):
            raise StepRefused("bad_step", "asks for a sample outside the step")
        if any(after != before + 1 for before, after in pairwise(step.sample)):
            raise StepRefused("bad_step", "asks for samples of positions that do not follow")
        if step.sample and step.hops[-1].span.end != self._shape.num_blocks:
            raise StepRefused("bad_step", "asks for a sample before the last block")
        check(step, self._shape.num_blocks, self._shape.hidden_size)

    def _on_failed(self, step: Step, error: StepRefused) -> None:
        key = part_of(step)
        # The step was counted but never ran. Steps of a newer route that wait behind it go down
        # with it, so that route must hear of it.
        epoch = max(step.epoch, self.sessions.forget(key))
        self._free([key])
        self._refuse(msgspec.structs.replace(step, epoch=epoch), error)

    def _on_done(self, step: Step, outcome: Outcome) -> None:
        if self.sessions.is_closed(SessionId(step.session), step.gateway, step.epoch):
            return  # its gateway no longer waits, and the hops behind have been told so
        if len(step.hops) > 1 and not self._push_on(step, outcome):
            return
        for told in outcome.told:
            states = States(
                step.session, step.epoch, told.block, told.positions, told.dtype, told.width
            )
            self._answer(step.gateway, states, told.payload)
        if len(step.hops) > 1:
            self._send_copy(step, outcome)  # after what was read: it tells that all of it is done
        if outcome.scores:
            scores = Scores(step.session, step.epoch, step.position + 1, outcome.scores)
            self._answer(step.gateway, scores)
        if len(step.hops) == 1 and step.sample:
            self._answer(
                step.gateway,
                Tokens(
                    step.session,
                    step.epoch,
                    step.sample[0] + 1,
                    outcome.token_ids,
                    outcome.logprobs,
                ),
            )
        if len(step.hops) == 1 and step.acknowledge:
            end = step.position + step.count
            block = step.hops[0].span.end
            self._answer(step.gateway, Filled(step.session, step.epoch, block, end))

    def _push_on(self, step: Step, outcome: Outcome) -> bool:
        """The next hop first: what the gateway gets of it is off the critical path."""
        onward = msgspec.structs.replace(
            step, hops=step.hops[1:], grants=step.grants[1:], dtype=outcome.dtype
        )
        try:
            frame = encode(onward, outcome.payload)
        except ProtocolError as error:
            self._on_failed(step, StepRefused("bad_step", str(error)))
            return False
        following = onward.hops[0].worker
        if following == self._identity.peer:  # it took over the span after its own
            self._on_step(onward, memoryview(outcome.payload), step.gateway)
        else:
            slim = msgspec.structs.replace(step, context=b"", prefix=(), read=None)
            self._pushed[part_of(step)] = slim
            push = Push(
                step.session,
                frame,
                on_failed=partial(self._on_unreachable, step),
                relay=partial(self._relay, step) if step.relays else None,
            )
            self._neighbours.push(step.gateway, following, push)
        return True

    def _send_copy(self, step: Step, outcome: Outcome) -> None:
        hop, following, *_ = step.hops
        checkpoint = Checkpoint(
            step.session, step.epoch, hop.span.end, step.position, step.count, outcome.dtype
        )
        # one that has to be dialled may be lost: its gateway is about to need this
        gathers = step.gathers and not self._neighbours.is_dialled(following.worker)
        self._copies.add(step.gateway, checkpoint, outcome.payload, gathers=gathers)
        if self._copies and self._flush is None:
            self._flush = self._loop.call_later(GATHER_SECONDS, self._flush_copies)

    def _flush_copies(self) -> None:
        self._flush = None
        self._copies.flush()

    def _on_unreachable(self, step: Step, why: str) -> None:
        log.warning("next_unreachable", next=step.hops[1].worker, error=why)
        error = StepRefused("next_unreachable", why)
        self._tell_refused(step, error, lost=step.hops[1].worker)

    def _refuse(self, step: Step, error: StepRefused) -> None:
        self._engine.metrics.refusals.labels(error.reason).inc()
        log.info("step_refused", reason=error.reason, detail=str(error), position=step.position)
        self._tell_refused(step, error)

    def _tell_refused(self, step: Step, error: StepRefused, *, lost: PeerId = NOBODY) -> None:
        refused = Refused(
            step.session,
            step.epoch,
            self._identity.peer,
            error.reason,
            str(error)[:1024],
            cached=error.cached,
            lost=lost,
        )
        self._answer(step.gateway, refused)

    def _answer(self, gateway: PeerId, message: Message, payload: bytes = b"") -> None:
        link = self.pool.get(gateway)
        if link is None:
            log.debug("gateway_gone", gateway=gateway, message=type(message).__name__)
            return
        try:
            link.post(message, payload)
        except PeerUnreachable as error:
            log.warning("gateway_unreachable", gateway=gateway, error=str(error))


def _context_of(step: Step) -> SamplingContext:
    """How the step's tokens are chosen. Raises StepRefused when they do not read."""
    if not step.context:
        return GREEDY
    try:
        return _decode_context(step.context)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StepRefused("bad_step", f"the sampling context does not read: {error}") from error
