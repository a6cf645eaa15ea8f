"""A simulated line of workers: the real Session and the real Sessions, with toy blocks between.

Every link delivers in order, but links interleave at random, workers die, are believed dead while
they go on talking, forget sessions, refuse, and lose checkpoints. One seed decides everything.
"""

import random
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from gateway.session import Action, Emit, Send, Session
from shared.errors import StepRefused
from shared.swarm import Hop, PeerId, SessionId, Span
from shared.wire.messages import Checkpoint, Filled, Refused, Step, Tokens
from worker.sessions import Sessions

GATEWAY = PeerId("gateway")
SESSION = SessionId(bytes(16))
PROMPT = (11, 12, 13, 14, 15)
VOCABULARY = 50_000


@dataclass(frozen=True)
class Faults:
    """Chances per tick, but for `lost_checkpoints`, a chance per copy."""

    kill: float = 0.0
    forget: float = 0.0
    refuse: float = 0.0
    lost_checkpoints: float = 0.0
    guess: float = 0.0
    most: int = 10


@dataclass
class ToyWorker:
    """Real session rules; a block's output is a hash of its input and of its whole cache."""

    peer: PeerId
    sessions: Sessions
    refuses: bool = False
    caches: dict[Span, list[dict[int, int]]] = field(default_factory=dict)

    def step(self, step: Step, values: tuple[int, ...]) -> list[tuple[PeerId, object, tuple]]:
        span = step.hops[0].span
        try:
            if self.refuses:
                self.refuses = False
                raise StepRefused("no_pages", "as told")
            if self.sessions.admit(step, now=0.0) is None:
                return []
        except StepRefused as error:
            refusal = Refused(
                SESSION, step.epoch, self.peer, error.reason, str(error), error.cached
            )
            return [(GATEWAY, refusal, ())]
        outputs = self._run(span, step.position, values)
        return self._results(step, outputs)

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

    def _results(self, step: Step, outputs: tuple[int, ...]) -> list:
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
                acknowledge=step.acknowledge,
            )
            copy = Checkpoint(SESSION, step.epoch, block, step.position, step.count, "float32")
            return [(onward.hops[0].worker, onward, outputs), (GATEWAY, copy, outputs)]
        if step.acknowledge:
            return [(GATEWAY, Filled(SESSION, step.epoch, block, end), ())]
        if step.sample:
            ids = tuple(
                abs(hash((outputs[position - step.position], position))) % VOCABULARY
                for position in step.sample
            )
            return [(GATEWAY, Tokens(SESSION, step.epoch, step.sample[0] + 1, ids), ())]
        return []


class Line:
    """One generation over simulated workers."""

    def __init__(
        self,
        seed: int,
        faults: Faults,
        *,
        num_blocks: int = 12,
        tokens: int = 12,
        truth: Sequence[int] = (),
    ):
        """`truth` are the tokens of an undisturbed run, for guesses to be right by."""
        self.random = random.Random(seed)
        self.faults = faults
        self.truth = truth
        self.blocks = Span(0, num_blocks)
        self.workers: dict[PeerId, ToyWorker] = {}
        self.links: dict[tuple[PeerId, PeerId], deque] = defaultdict(deque)
        self.checkpoints: dict[int, list[int]] = {}
        self.unnoticed: list[PeerId] = []
        self.emitted: list[int] = []
        self.num_faults = 0
        self.num_gap_refusals = 0
        self.num_values = 0
        self.session = Session(
            PROMPT,
            self.blocks,
            max_tokens=tokens,
            stop_ids=frozenset(),
            chunk_tokens=self.random.choice((1, 2, 3, 64)),
            held=lambda block: len(
                self.session.tokens if block == 0 else self.checkpoints.get(block, ())
            ),
            guess=self._guess,
        )

    def run(self) -> list[int]:
        """The tokens the client saw."""
        for _ in range(20_000):
            if self.session.is_over:
                return self.emitted
            self._close_gaps()
            self._break_something()
            self._deliver_something()
        raise AssertionError("the generation never ended")

    def _guess(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Sometimes nothing, else the right tokens up to one, from where on they are wrong."""
        if self.random.random() >= self.faults.guess:
            return ()
        right = self.truth[len(tokens) - len(PROMPT) :][: self.random.randrange(4)]
        return (*right, *(self.random.randrange(VOCABULARY) for _ in range(2)))

    def _close_gaps(self) -> None:
        while self.session.gaps:
            gap = self.random.choice(self.session.gaps)
            self._perform(self.session.rerouted(gap, self._newcomers(gap)))

    def _newcomers(self, gap: Span) -> tuple[Hop, ...]:
        cuts = [b for b in range(gap.start + 1, gap.end) if self.random.random() < 0.25]
        edges = [gap.start, *cuts, gap.end]
        return tuple(Hop(self._hire(), Span(a, b)) for a, b in pairwise(edges))

    def _hire(self) -> PeerId:
        """A worker for a part of the model: sometimes one that serves another part already."""
        on_route = {hop.worker for hop in self.session.route}
        idle = [w for w in self.workers if w not in self.unnoticed]
        if idle and self.random.random() < 0.2:
            return self.random.choice(idle)
        peer = PeerId(f"w{len(self.workers)}-{len(on_route)}-{self.random.random()}")
        sessions = Sessions(
            self.blocks, pages_total=1000, page_tokens=4, max_sessions=4, lease_seconds=60
        )
        self.workers[peer] = ToyWorker(peer, sessions)
        return peer

    def _break_something(self) -> None:
        if self.num_faults >= self.faults.most or not self.session.route:
            return
        victim = self.random.choice(self.session.route).worker
        chances = (self.faults.kill, self.faults.forget, self.faults.refuse)
        kind = self.random.choices(
            ("kill", "forget", "refuse", "nothing"), (*chances, 1 - sum(chances))
        )[0]
        if kind == "nothing" or victim not in self.workers or victim in self.unnoticed:
            return
        self.num_faults += 1
        if kind == "kill":
            self.unnoticed.append(victim)
            if self.random.random() < 0.6:  # else only believed dead, and goes on talking
                self._kill(victim)
        elif kind == "refuse":
            self.workers[victim].refuses = True
        else:
            self._forget(self.workers[victim])

    def _forget(self, worker: ToyWorker) -> None:
        for span in list(worker.caches):
            worker.sessions.forget((SESSION, span))
            del worker.caches[span]

    def _kill(self, victim: PeerId) -> None:
        self.workers.pop(victim, None)
        for link in [link for link in self.links if victim in link]:
            del self.links[link]

    def _deliver_something(self) -> None:
        ready = [link for link, queue in self.links.items() if queue]
        if self.unnoticed and (not ready or self.random.random() < 0.2):
            self.session.worker_lost(self.unnoticed.pop(0))
        elif not ready:
            suspect = self.session.suspect()  # the step's deadline has passed
            assert suspect is not None
            self.session.worker_lost(suspect)
        else:
            link = self.random.choice(ready)
            message, values = self.links[link].popleft()
            self._deliver(*link, message, values)

    def _deliver(self, source: PeerId, target: PeerId, message: object, values: tuple) -> None:
        if target == GATEWAY:
            self._perform(self._gateway_receives(source, message, values))
        elif target in self.workers:
            assert isinstance(message, Step)
            self.num_values += len(values)
            for to, answer, outputs in self.workers[target].step(message, values):
                self.links[target, to].append((answer, outputs))
        elif source != GATEWAY and source in self.workers and isinstance(message, Step):
            refusal = Refused(SESSION, message.epoch, source, "next_unreachable", lost=target)
            self.links[source, GATEWAY].append((refusal, ()))

    def _gateway_receives(self, source: PeerId, message: object, values: tuple) -> list[Action]:
        session = self.session
        match message:
            case Tokens(epoch=epoch, position=position, token_ids=token_ids):
                actions = session.tokens_arrived(source, epoch, position, token_ids)
                for rows in self.checkpoints.values():
                    del rows[session.confirmed :]
                return actions
            case Filled(epoch=epoch, block=block, position=position):
                return session.filled(source, epoch, block, position)
            case Refused() as r:
                if r.reason == "position_gap" and r.epoch == session.epoch:
                    self.num_gap_refusals += 1
                return session.refused(source, r.epoch, r.reason, r.cached, r.lost)
            case Checkpoint() as c:
                valid = session.checkpointed(source, c.epoch, c.block, c.position, c.count)
                kept = self.checkpoints.setdefault(c.block, [])
                is_lost = self.random.random() < self.faults.lost_checkpoints
                if not is_lost and c.position <= len(kept):
                    kept.extend(values[len(kept) - c.position : valid])
                return []
        raise AssertionError(message)

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Emit):
                self.emitted.extend(action.token_ids)
            elif isinstance(action, Send):
                self._send(action)

    def _send(self, send: Send) -> None:
        block = send.hops[0].span.start
        source = self.checkpoints[block] if block else [*self.session.tokens, *send.guesses]
        end = send.position + send.count
        values = tuple(source[send.position : end])
        assert len(values) == send.count, "a send of inputs that are not held"
        step = Step(
            SESSION,
            send.epoch,
            GATEWAY,
            send.position,
            send.count,
            send.hops,
            "int32" if block == 0 else "float32",
            tuple(range(end - 1 - len(send.guesses), end)) if send.sample else (),
            acknowledge=send.acknowledge,
        )
        self.links[GATEWAY, send.hops[0].worker].append((step, values))
