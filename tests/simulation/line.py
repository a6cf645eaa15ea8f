"""A simulated line of workers: the real Session and the real Sessions, with toy blocks between.

Every link delivers in order, but links interleave at random; workers die, are believed dead while
they go on talking, forget sessions, refuse, run out of memory, leave as planned, and lose
checkpoints; hops are shadowed. One seed decides everything.
"""

import random
import struct
from array import array
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from gateway.actions import Action, Emit, EmitScores, Send
from gateway.contexts import Contexts
from gateway.reader import Reader
from gateway.session import Session
from shared.errors import StepRefused
from shared.swarm import Hop, ModelSpec, PeerId, SessionId, Span
from shared.wire.messages import (
    Checkpoint,
    Close,
    Filled,
    Reading,
    Refused,
    Sampling,
    SamplingContext,
    Scores,
    States,
    Step,
    TokenLogprobs,
    Tokens,
)
from worker.copies import Copies
from worker.reading import told
from worker.sessions import Sessions

GATEWAY = PeerId("gateway")
SESSION = SessionId(bytes(16))
PROMPT = (11, 12, 13, 14, 15)
TEXT = tuple(range(11, 23))
READING = Reading("states", (0, 2, 3, *range(6, 12)), (0, 3, 8, 12))
"""What is read of TEXT, if anything is."""
VOCABULARY = 50_000
PAGES = 8
"""Of 4 tokens each, on every worker: enough for one session, and not for two of full length."""


@dataclass(frozen=True)
class Faults:
    """Chances per tick; `lost_checkpoints` is one per copy, `guess` one per step, `repeat` one per
    message to the gateway, which then comes twice.

    With `standby` every hop is shadowed all the time, with `scores` the prompt is scored; with
    `reads` a text is read and not gone on with. At most `most` faults befall a run.
    """

    kill: float = 0.0
    forget: float = 0.0
    refuse: float = 0.0
    leave: float = 0.0
    squeeze: float = 0.0
    repeat: float = 0.0
    lost_checkpoints: float = 0.0
    guess: float = 0.0
    standby: bool = False
    scores: bool = False
    reads: bool = False
    most: int = 10


class ToyWorker:
    """Real session rules; a block's output is a hash of its input and of its whole cache."""

    def __init__(self, peer: PeerId, sessions: Sessions) -> None:
        self.peer = peer
        self.sessions = sessions
        self.refuses = False
        self.squeezed_pages = 0
        self.caches: dict[Span, list[dict[int, int]]] = {}
        self.out: list[tuple[PeerId, object, tuple]] = []
        self._outputs: dict[bytes, tuple[int, ...]] = {}
        self.copies = Copies(self._send_copy)

    def take(self, message: Step | Close, values: tuple[int, ...]) -> None:
        """Act on a message; what comes of it is in `out`."""
        if isinstance(message, Close):
            for _, span in self.sessions.close(SESSION, GATEWAY, message.epoch):
                self.caches.pop(span, None)
            return
        try:
            if self.refuses:
                self.refuses = False
                raise StepRefused("no_pages", "as told")
            if self.sessions.admit(message, now=0.0) is None:
                return
        except StepRefused as error:
            refusal = Refused(
                SESSION, message.epoch, self.peer, error.reason, str(error), error.cached
            )
            self.out.append((GATEWAY, refusal, ()))
            return
        outputs = self._run(message.hops[0].span, message.position, values)
        self._hand_on(message, values, outputs)

    def forget(self) -> None:
        """Lose all caches and know it."""
        for span in list(self.caches):
            self.sessions.forget((SESSION, span))
            del self.caches[span]

    def _run(self, span: Span, position: int, values: tuple[int, ...]) -> tuple[int, ...]:
        cache = self.caches.setdefault(span, [])
        assert position <= len(cache), "the cache has a hole"
        del cache[position:]
        outputs = []
        for value in values:
            row: dict[int, int] = {}
            for block in range(span.start, span.end):
                value = hash((block, value, tuple(r[block] for r in cache)))
                row[block] = value
            cache.append(row)
            outputs.append(value)
        return tuple(outputs)

    def _score(self, step: Step, outputs: tuple[int, ...]) -> None:
        """Answer in two parts where there is more than one token to score."""
        scoring = msgspec.msgpack.decode(step.context, type=SamplingContext).scoring
        assert scoring is not None
        ids = array("i", scoring.token_ids)
        assert scoring.position == step.position + 1
        assert len(ids) <= len(outputs)
        ranks = [
            1 + abs(hash((output, token_id))) % VOCABULARY
            for output, token_id in zip(outputs, ids, strict=False)
        ]
        half = (len(ranks) + 1) // 2
        for start, part in ((0, ranks[:half]), (half, ranks[half:])):
            if part:
                told = tuple(TokenLogprobs(-1.0, rank=rank) for rank in part)
                scores = Scores(SESSION, step.epoch, scoring.position + start, told)
                self.out.append((GATEWAY, scores, ()))

    def _tell(self, step: Step, inputs: tuple[int, ...]) -> None:
        """Answer what is read of this span: each block's states in a message, some cut in two."""
        span = step.hops[0].span
        for block in told(step.read, span) if step.read else ():
            assert step.read
            rows = [
                self.caches[span][p][block - 1] if block else inputs[p - step.position]
                for p in step.read.positions
            ]
            half = len(rows) // 2 if block % 2 else 0
            for part in (slice(0, half), slice(half, None)):
                if positions := step.read.positions[part]:
                    states = States(SESSION, step.epoch, block, positions, "float32", 2)
                    packed = b"".join(struct.pack("<q", row) for row in rows[part])
                    self.out.append((GATEWAY, states, packed))

    def _hand_on(self, step: Step, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        end = step.position + step.count
        block = step.hops[0].span.end
        if len(step.hops) > 1:
            onward = Step(
                SESSION,
                step.epoch,
                GATEWAY,
                step.position,
                step.count,
                step.hops[1:],
                "float32",
                step.sample,
                step.context,
                acknowledge=step.acknowledge,
                gathers=step.gathers,
                read=step.read,
            )
            self.out.append((onward.hops[0].worker, onward, outputs))
            self._tell(step, inputs)
            copy = Checkpoint(SESSION, step.epoch, block, step.position, step.count, "float32")
            packed = repr(outputs)[1:-1].rstrip(",").encode() + b","
            self.copies.add(GATEWAY, copy, packed, gathers=step.gathers)
            return
        self._tell(step, inputs)
        if step.context:
            self._score(step, outputs)
        if step.acknowledge:
            self.out.append((GATEWAY, Filled(SESSION, step.epoch, block, end), ()))
        elif step.sample:
            ids = tuple(
                abs(hash((outputs[position - step.position], position))) % VOCABULARY
                for position in step.sample
            )
            tokens = Tokens(SESSION, step.epoch, step.sample[0] + 1, ids)
            self.out.append((GATEWAY, tokens, ()))

    def _send_copy(self, gateway: PeerId, copy: Checkpoint, packed: bytes) -> None:
        values = tuple(map(int, packed.decode().rstrip(",").split(",")))
        assert len(values) == copy.count
        self.out.append((gateway, copy, values))


@dataclass
class Line:
    """One generation over simulated workers. `truth` are the tokens of an undisturbed run, for
    guesses to be right by."""

    seed: int
    faults: Faults
    num_blocks: int = 12
    num_tokens: int = 12
    truth: Sequence[int] = ()
    session_class: type[Session] = Session
    sessions_class: type[Sessions] = Sessions
    workers: dict[PeerId, ToyWorker] = field(default_factory=dict)
    leaving: set[PeerId] = field(default_factory=set)
    emitted: list[int] = field(default_factory=list)
    scores: list[TokenLogprobs] = field(default_factory=list)
    num_faults: int = 0
    num_gap_refusals: int = 0
    num_values: int = 0
    num_refilled: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.blocks = Span(0, self.num_blocks)
        self.links: dict[tuple[PeerId, PeerId], deque] = defaultdict(deque)
        self.checkpoints: dict[int, list[int]] = {}
        self.unnoticed: list[PeerId] = []
        self.linked: set[PeerId] = set()
        self.touched: set[PeerId] = set()
        spec = ModelSpec("toy", "r1", self.num_blocks, 2, VOCABULARY, 64)
        self.reader = Reader(READING, spec) if self.faults.reads else None
        self.session = self.session_class(
            TEXT if self.reader else PROMPT,
            self.blocks,
            max_tokens=self.num_tokens,
            stop_ids=frozenset(),
            chunk_tokens=self.random.choice((1, 2, 3, 64)),
            held=self._held,
            propose=self._propose,
            num_scored=len(PROMPT) if self.faults.scores else 0,
            reader=self.reader,
        )
        self.contexts = Contexts(Sampling(num_prompt_logprobs=0), PROMPT)

    def run(self) -> list[int]:
        """The tokens the client saw."""
        for _ in range(5_000):
            if self.session.is_over:
                return self.emitted
            self._close_gaps()
            self._see_to_shadows()
            self._break_something()
            self._deliver_something()
        raise AssertionError("the generation never ended")

    @property
    def read(self) -> dict[int, bytes]:
        """What was read, by block."""
        rows = self.reader.rows if self.reader else {}
        return {block: b"".join(its.parts) for block, its in rows.items()}

    def parts_left(self) -> int:
        """After the end: the parts held by workers that can still be told of it."""
        self._close(self.touched, Close(SESSION))
        while any(self.links.values()):
            for link, queue in list(self.links.items()):
                if queue and link[1] != GATEWAY:
                    self._deliver(*link, *queue.popleft())
                elif queue:
                    queue.clear()
        reachable = [self.workers[peer] for peer in self.linked & self.workers.keys()]
        for worker in reachable:
            pages = worker.sessions.pages_free + worker.squeezed_pages
            assert len(worker.sessions) or pages == PAGES, "pages leaked"
        return sum(len(worker.sessions) for worker in reachable)

    def _held(self, block: int) -> int:
        return len(self.session.tokens if block == 0 else self.checkpoints.get(block, ()))

    def _propose(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Sometimes nothing, else the right tokens up to one, from where on they are wrong."""
        if self.random.random() >= self.faults.guess:
            return ()
        right = self.truth[len(tokens) - len(PROMPT) :][: self.random.randrange(4)]
        return (*right, *(self.random.randrange(VOCABULARY) for _ in range(2)))

    def _close_gaps(self) -> None:
        while self.session.gaps:
            gap = self.random.choice(self.session.gaps)
            hops = self.session.stand_ins(gap) or self._newcomers(gap)
            self._take_on(hops)
            self._perform(self.session.rerouted(gap, hops))
        self._release()

    def _see_to_shadows(self) -> None:
        """What the gateway does for standbys and for workers that leave, sooner or later."""
        for hop in self.session.route:
            is_leaving = hop.worker in self.leaving
            if shadow := self.session.shadow_of(hop):
                shadow.takes_over |= is_leaving
            elif (is_leaving or self.faults.standby) and self._finds_shadows():
                hops = self._newcomers(hop.span)
                self._take_on(hops)
                self._perform(self.session.shadow(hop, hops, takes_over=is_leaving))

    def _finds_shadows(self) -> bool:
        return self.session.confirmed > 0 and self.random.random() < 0.3

    def _newcomers(self, gap: Span) -> tuple[Hop, ...]:
        cuts = [b for b in range(gap.start + 1, gap.end) if self.random.random() < 0.25]
        edges = [gap.start, *cuts, gap.end]
        return tuple(Hop(self._hire(), Span(a, b)) for a, b in pairwise(edges))

    def _take_on(self, hops: Sequence[Hop]) -> None:
        self.touched |= {hop.worker for hop in hops}
        self.linked |= {hop.worker for hop in hops}

    def _hire(self) -> PeerId:
        """A worker for a part of the model: sometimes one that serves another part already."""
        idle = [w for w in self.workers if w not in self.unnoticed and w not in self.leaving]
        if idle and self.random.random() < 0.2:
            return self.random.choice(idle)
        peer = PeerId(f"w{len(self.workers)}-{self.random.random()}")
        sessions = self.sessions_class(
            self.blocks, pages_total=PAGES, page_tokens=4, max_sessions=4, lease_seconds=60
        )
        self.workers[peer] = ToyWorker(peer, sessions)
        return peer

    def _release(self) -> None:
        gone = self.touched - self.session.workers
        self._close(gone, Close(SESSION, epoch=self.session.last_epoch))
        self.touched -= gone

    def _close(self, workers: set[PeerId], message: Close) -> None:
        for worker in sorted(workers & self.linked):
            self.links[GATEWAY, worker].append((message, ()))

    def _break_something(self) -> None:
        if self.num_faults >= self.faults.most or not self.session.route:
            return
        victim = self.random.choice(sorted(self.session.workers))
        names = ("kill", "forget", "refuse", "leave", "squeeze")
        chances = [getattr(self.faults, name) for name in names]
        kind = self.random.choices((*names, "nothing"), (*chances, 1 - sum(chances)))[0]
        if kind == "nothing" or victim not in self.workers or victim in self.unnoticed:
            return
        self.num_faults += 1
        worker = self.workers[victim]
        match kind:
            case "kill":
                self.unnoticed.append(victim)
                if self.random.random() < 0.6:  # else only believed dead, and goes on talking
                    self._kill(victim)
            case "refuse":
                worker.refuses = True
            case "leave":
                self.leaving.add(victim)
                worker.sessions.is_draining = True
            case "squeeze":  # others' sessions take the pages
                worker.squeezed_pages += worker.sessions.pages_free
                worker.sessions.pages_free = 0
            case _:
                worker.forget()

    def _kill(self, victim: PeerId) -> None:
        self.workers.pop(victim, None)
        for link in [link for link in self.links if victim in link]:
            del self.links[link]

    def _deliver_something(self) -> None:
        ready = [link for link, queue in self.links.items() if queue]
        gathering = [worker for worker in self.workers.values() if worker.copies]
        if self.unnoticed and (not ready or self.random.random() < 0.2):
            self._notice(self.unnoticed.pop(0))
        elif gathering and (not ready or self.random.random() < 0.1):
            worker = self.random.choice(gathering)
            worker.copies.flush()
            self._collect(worker)
        elif not ready:
            suspect = self.session.suspect()  # the step's deadline has passed
            assert suspect is not None
            self._perform(self.session.worker_lost(suspect))
        else:
            link = self.random.choice(ready)
            self._deliver(*link, *self.links[link].popleft())
        self._release()

    def _notice(self, worker: PeerId) -> None:
        self.linked.discard(worker)
        self._perform(self.session.worker_lost(worker))

    def _deliver(self, source: PeerId, target: PeerId, message: object, values: tuple) -> None:
        if target == GATEWAY:
            self._perform(self._gateway_receives(source, message, values))
        elif target in self.workers:
            assert isinstance(message, Step | Close)
            self.num_values += len(values)
            self.workers[target].take(message, values)
            self._collect(self.workers[target])
        elif source != GATEWAY and source in self.workers and isinstance(message, Step):
            refusal = Refused(SESSION, message.epoch, source, "next_unreachable", lost=target)
            self.links[source, GATEWAY].append((refusal, ()))

    def _collect(self, worker: ToyWorker) -> None:
        for to, answer, outputs in worker.out:
            is_twice = to == GATEWAY and self.random.random() < self.faults.repeat
            self.links[worker.peer, to].extend([(answer, outputs)] * (1 + is_twice))
        worker.out.clear()

    def _gateway_receives(self, source: PeerId, message: object, values: tuple) -> list[Action]:
        session = self.session
        if source not in self.touched:
            return []
        match message:
            case Tokens(epoch=epoch, position=position, token_ids=token_ids):
                actions = session.tokens_arrived(source, epoch, position, token_ids)
                for rows in self.checkpoints.values():
                    del rows[session.confirmed :]
                return actions
            case Scores() as s:
                return session.scores_arrived(source, s.epoch, s.position, s.logprobs)
            case States() as s:
                assert self.reader
                assert self.reader.fits(s, len(values))
                return session.states_arrived(source, s, memoryview(values))
            case Filled(epoch=epoch, block=block, position=position):
                return session.filled(source, epoch, block, position)
            case Refused() as r:
                if r.reason == "position_gap" and r.epoch == session.epoch:
                    self.num_gap_refusals += 1
                return session.refused(source, r.epoch, r.reason, r.cached, r.lost)
            case Checkpoint() as c:
                return self._keep(source, c, values)
        raise AssertionError(message)

    def _keep(self, source: PeerId, copy: Checkpoint, values: tuple) -> list[Action]:
        session = self.session
        if not session.pushes(source, copy.block) or copy.position + copy.count > session.sent:
            return []
        valid = session.checkpointed(source, copy.epoch, copy.block, copy.position, copy.count)
        kept = self.checkpoints.setdefault(copy.block, [])
        is_lost = self.random.random() < self.faults.lost_checkpoints
        if not is_lost and copy.position <= len(kept):
            kept.extend(values[len(kept) - copy.position : valid])
        return session.feed_shadows()

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Emit):
                self.emitted.extend(action.token_ids)
            elif isinstance(action, EmitScores):
                self.scores.extend(action.logprobs)
            elif isinstance(action, Send):
                self._send(action)

    def _send(self, send: Send) -> None:
        if send.acknowledge and send.epoch == self.session.epoch:
            self.num_refilled += send.count
        block = send.hops[0].span.start
        source = self.checkpoints[block] if block else [*self.session.tokens, *send.guesses]
        end = send.position + send.count
        values = tuple(source[send.position : end])
        assert len(values) == send.count, "a send of inputs that are not held"
        scored = range(send.position + 1, send.position + 1 + send.scored)
        step = Step(
            SESSION,
            send.epoch,
            GATEWAY,
            send.position,
            send.count,
            send.hops,
            "int32" if block == 0 else "float32",
            tuple(range(end - 1 - len(send.guesses), end)) if send.sample else (),
            self.contexts.context(self.session.tokens, (), scored) if scored else b"",
            acknowledge=send.acknowledge,
            gathers=not self.session.is_shadowed,
            read=send.read,
        )
        self.links[GATEWAY, send.hops[0].worker].append((step, values))
