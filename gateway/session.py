"""One generation: events in, actions out. Pure: no clock, no sockets, no tensors.

A session knows its tokens, its route, and how far each hop's cache is known to reach. A new
session is one whose whole route is lost; a worker that vanishes leaves a gap; both are closed by
`rerouted`. Then lagging hops are refilled up to the unanswered step, from the nearest boundary
upstream whose inputs are held, at worst from the token ids at block 0, and the unanswered step is
sent again. Hops that rewind only run again what they have run before.

A text may have to be scored: how likely was each of its own tokens? The step that is unanswered
then begins where the scores that came end, so that a loss costs none of them. Or it is only read:
then nothing is sampled, and the session is over when all that is read has come. The unanswered
step begins with the first step whose answer is not whole, so that steps are cut as they were.

A hop may be shadowed: other workers are fed its inputs while it serves on. They take its place
between two steps, when it is to leave, or at once, when it is lost.

Each change of route starts an epoch, and workers drop steps of an older one, so that a worker
believed dead cannot disturb those who took over. So does each shadow, for itself.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from itertools import pairwise

from msgspec.structs import replace

from gateway.actions import Action, Emit, EmitScores, Send
from gateway.guesses import Guesses, Propose
from gateway.holes import MAX_MENDED_TOKENS, Holes
from gateway.reader import Reader, tells
from gateway.refill import Refill, chunks, step
from gateway.shadows import Shadow
from shared.errors import RefusalCode
from shared.swarm import Hop, PeerId, Route, Span, spliced, tiles
from shared.wire.messages import States, TokenLogprobs

MAX_GAP_REFUSALS = 16
"""Position gaps a worker may report in one session before it counts as lost."""

MAX_FILL_CHUNKS = 8
"""Chunks of inputs sent to refill caches before the arrival of the last is waited for: bounds
what a link must hold."""


class Session:
    """One generation's state. `num_advances` grows whenever something moved it on.

    `prompt` is followed by the tokens `made` before, if the generation is resumed. `held(block)`
    says how many inputs of a block are checkpointed; `propose(tokens)` what may follow them. The
    first `num_scored` tokens are scored before any is made; with a `reader` none is made at all.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        blocks: Span,
        *,
        max_tokens: int,
        stop_ids: Set[int],
        chunk_tokens: int,
        held: Callable[[int], int],
        propose: Propose = lambda tokens: (),
        made: Sequence[int] = (),
        num_scored: int = 0,
        reader: Reader | None = None,
    ) -> None:
        self.tokens = [*prompt, *made]
        self.route: Route = ()
        self.gaps: list[Span] = [blocks]
        self.epoch = 0
        self.last_epoch = 0
        self.is_over = False
        self.guesses = Guesses(propose)
        self.num_advances = 0
        self.num_moves = 0
        self._stop_ids = stop_ids
        self._max_length = len(prompt) + max_tokens
        self._num_scored = num_scored
        self._reader = reader
        self._chunk_tokens = chunk_tokens
        self._held = held
        self._unanswered = 0
        self._filled: dict[Hop, int] = {}
        self._refill: Refill | None = None
        self._gap_refusals: dict[PeerId, int] = {}
        self._shadows: dict[Hop, Shadow] = {}
        self._holes = Holes(held)
        self._is_waiting = False
        """The next step is held back for a shadow that is about to take over."""

    @property
    def confirmed(self) -> int:
        """The length of the text whose inputs every hop has run: all but the last token."""
        return self._unanswered

    @property
    def num_left(self) -> int:
        """How many tokens more may be made."""
        return self._max_length - len(self.tokens)

    @property
    def sent(self) -> int:
        """The end of the inputs that any hop can have run: the text and the guesses after it."""
        return len(self.tokens) + len(self.guesses.pending)

    @property
    def workers(self) -> set[PeerId]:
        """Everyone on the route and in its shadows."""
        workers = {hop.worker for hop in self.route}
        for shadow in self._shadows.values():
            workers |= {hop.worker for hop in shadow.hops}
        return workers

    @property
    def is_decoding(self) -> bool:
        """Whether one token's step is all that is waited for."""
        is_one_token = 0 < self._unanswered == len(self.tokens) - 1
        return is_one_token and not (self.gaps or self._refill or self._is_waiting)

    @property
    def is_shadowed(self) -> bool:
        """Whether any hop is."""
        return bool(self._shadows)

    def is_next(self, worker: PeerId, other: PeerId) -> bool:
        """Whether `other` follows `worker` on the route."""
        return any(a.worker == worker and b.worker == other for a, b in pairwise(self.route))

    def before(self, worker: PeerId) -> Hop | None:
        """The hop whose outputs are this worker's inputs."""
        return next((a for a, b in pairwise(self.route) if b.worker == worker), None)

    def is_lost(self, worker: PeerId) -> bool:
        """Whether a hop of this worker lies in a gap."""
        return any(hop.worker == worker and self._is_in_gap(hop) for hop in self.route)

    def pushes(self, worker: PeerId, block: int) -> bool:
        """Whether this worker's outputs are the inputs of `block`."""
        shadows = [hop for shadow in self._shadows.values() for hop in shadow.hops]
        hops = (*self.route, *shadows)
        return any((hop.worker, hop.span.end) == (worker, block) for hop in hops)

    def worker_lost(self, worker: PeerId) -> list[Action]:
        """A worker went silent, closed or refused: its hops become gaps."""
        for hop in self.route:
            if hop.worker == worker:
                self._open_gap(hop.span)
        self._drop_shadows(worker)
        return self._go_on_without()

    def rerouted(self, gap: Span, hops: Route, *, reused: int = 0) -> list[Action]:
        """Other workers take over a gap. Nothing is sent before the last gap is closed.

        The first `reused` positions, fewer than there are tokens, should be in their caches
        already, kept from another session; a hop that has fewer will refuse and be refilled. What
        is scored has to run, so none are then.
        """
        if not self.route:
            self._unanswered = reused
        assert not (reused and self._num_scored)
        assert gap in self.gaps
        assert tiles(hops, gap)
        known = {hop: s.filled for s in self._shadows.values() for hop in s.hops}
        self.gaps.remove(gap)
        self._replace(gap, hops)
        self._filled |= {hop: known.get(hop, min(reused, self._unanswered)) for hop in hops}
        return [] if self.gaps else self._start_epoch()

    def stand_ins(self, gap: Span) -> Route | None:
        """The shadows of all that a gap has lost, if they are there."""
        shadows = [self._shadows.get(hop) for hop in self.route if gap.covers(hop.span)]
        if not shadows or not all(shadows):
            return None
        return tuple(hop for shadow in shadows if shadow for hop in shadow.hops)

    def shadow(self, hop: Hop, hops: Route, *, takes_over: bool = False) -> list[Action]:
        """Feed `hops` what `hop` is fed; with `takes_over`, until they can replace it."""
        assert tiles(hops, hop.span)
        if hop not in self.route or self._is_in_gap(hop) or set(hops) & set(self.route):
            return []
        self.last_epoch += 1
        self._shadows[hop] = Shadow(hop, hops, self.last_epoch, takes_over)
        return self.feed_shadows()

    def shadow_of(self, hop: Hop) -> Shadow | None:
        """The shadow of a hop, if it has one."""
        return self._shadows.get(hop)

    def feed_shadows(self) -> list[Action]:
        """Send shadows what they lack, as far as it is held. To be called when more is."""
        # outputs of a step with guesses may not belong to the text
        return self._feed(self._unanswered if self.guesses.pending else len(self.tokens))

    def tokens_arrived(
        self,
        worker: PeerId,
        epoch: int,
        position: int,
        token_ids: Sequence[int],
        logprobs: tuple[TokenLogprobs, ...] = (),
    ) -> list[Action]:
        """The last hop sampled. Answers from routes or for positions left behind change nothing."""
        if self.is_over or epoch != self.epoch or position != len(self.tokens):
            return []
        if self._is_not_last(worker) or self._owes_scores or self._reader:
            return []
        self.num_advances += 1
        self._refill = None
        fresh = self._take(self.guesses.judge(token_ids))
        emit = Emit(fresh, logprobs[: len(fresh)])
        self._unanswered = len(self.tokens) - 1
        self.guesses.answered(self._unanswered)
        self._filled = dict.fromkeys(self.route, self._unanswered)
        if not self.is_over:
            self.guesses.make(self.tokens, self._max_length - len(self.tokens) - 1)
        if self.is_over or self.gaps:
            return [emit]
        return [*self._go_on(), emit]

    def scores_arrived(
        self, worker: PeerId, epoch: int, position: int, logprobs: tuple[TokenLogprobs, ...]
    ) -> list[Action]:
        """The last hop scored the tokens of the text at `position` and after it."""
        is_next = self._owes_scores and position == self._unanswered + 1
        end = position + len(logprobs)
        if not is_next or epoch != self.epoch or self._is_not_last(worker):
            return []
        if end > self._num_scored:
            return []
        self.num_advances += 1
        self._unanswered = end - 1
        self._filled = {hop: max(n, self._unanswered) for hop, n in self._filled.items()}
        return [EmitScores(logprobs)]

    def states_arrived(self, worker: PeerId, states: States, payload: memoryview) -> list[Action]:
        """A hop told of what is read. What fits nowhere or is known changes nothing.

        Raises GenerationFailed when the reading cannot be made whole.
        """
        tellers = [
            index
            for index, hop in enumerate(self.route)
            if hop.worker == worker and tells(hop.span, states.block)
        ]
        if self._reader is None or not tellers or states.epoch != self.epoch:
            return []
        if self._reader.take(states, payload):
            self.num_advances += 1
            self.is_over = self._reader.is_complete
            # a newcomer after this hop may be behind the answers that its predecessor gave
            for hop in self.route[: tellers[0] + 1]:
                self._filled[hop] = max(self._filled[hop], states.positions[-1] + 1)
            answered = self._reader.reached // self._chunk_tokens * self._chunk_tokens
            self._unanswered = max(self._unanswered, min(answered, len(self.tokens) - 1))
        return []

    def filled(self, worker: PeerId, epoch: int, block: int, position: int) -> list[Action]:
        """A refill reached the end of its hops."""
        refill = self._refill
        if refill and epoch == self.epoch and refill.ends_at(worker, block, position):
            self.num_advances += 1
            self._refill = None
            self._filled |= {hop: max(self._filled[hop], refill.end) for hop in refill.hops}
            return [] if self.gaps or refill.is_followed else self._resume()
        if any([shadow.reached(worker, block, position) for shadow in self._shadows.values()]):
            return self._go_on() if self._is_waiting else self.feed_shadows()
        return []

    def checkpointed(
        self, worker: PeerId, epoch: int, block: int, position: int, count: int
    ) -> int:
        """A hop pushed its outputs on, so its own cache reaches their end.

        Returns how many of the outputs belong to the text: those of wrong guesses do not.
        """
        end = self.guesses.end_of_text(position, position + count)
        for hop in self.route if epoch == self.epoch else ():
            is_its = (hop.worker, hop.span.end) == (worker, block)
            if is_its and position <= self._filled[hop] < end:
                self._filled[hop] = end
                self.num_advances += 1
        return end - position

    def refused(
        self, worker: PeerId, epoch: int, reason: RefusalCode, cached: int, lost: PeerId
    ) -> list[Action]:
        """A worker did not run a step. All but a position gap mean that a worker is lost to us."""
        self._drop_shadows(worker)
        if epoch != self.epoch or all(hop.worker != worker for hop in self.route):
            return self._go_on_without()
        if reason in ("next_unreachable", "bad_inputs"):
            return self.worker_lost(lost)
        refusals = self._gap_refusals[worker] = self._gap_refusals.get(worker, 0) + 1
        if reason != "position_gap" or refusals > MAX_GAP_REFUSALS:
            return self.worker_lost(worker)
        for hop in self.route:
            if hop.worker == worker:
                self._filled[hop] = min(self._filled[hop], cached)
        return [] if self.gaps else self._start_epoch()

    def suspect(self) -> PeerId | None:
        """Whom to blame when nothing comes: the first hop not known to have done its part."""
        if self._is_waiting:
            return next(s.hops[0].worker for s in self._shadows.values() if s.takes_over)
        target = self._refill.end if self._refill else len(self.tokens)
        hops = self._refill.hops if self._refill else self.route
        behind = [hop for hop in hops if not self._has_done(hop, target)]
        return (behind or [self.route[-1]])[0].worker if self.route else None

    @property
    def _most_filled(self) -> int:
        return MAX_FILL_CHUNKS * self._chunk_tokens

    @property
    def _owes_scores(self) -> bool:
        """Whether the scores of some tokens have not come yet."""
        return self._unanswered + 1 < self._num_scored

    def _has_done(self, hop: Hop, end: int) -> bool:
        """Whether a hop is known to have run the inputs before `end`, and told what it has to."""
        owes = self._reader is not None and not self._refill and self._reader.owes(hop.span)
        return self._filled[hop] >= end and not owes

    def _is_not_last(self, worker: PeerId) -> bool:
        return not self.route or worker != self.route[-1].worker

    def _is_in_gap(self, hop: Hop) -> bool:
        return any(gap.covers(hop.span) for gap in self.gaps)

    def _feed(self, certain: int) -> list[Action]:
        """Send shadows what they lack of the first `certain` inputs."""
        sends: list[Action] = []
        for shadow in self._shadows.values() if not self.gaps else ():
            start = shadow.sent
            end = min(certain, self._held(shadow.hop.span.start), start + self._most_filled)
            if end > start and shadow.has_room:
                shadow.fill_to(end)
                sends += chunks(shadow.hops, shadow.epoch, start, end, self._chunk_tokens)
        return sends

    def _take(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """Append tokens up to the first that ends the generation; those that were appended."""
        fresh: list[int] = []
        for token_id in token_ids:
            fresh.append(token_id)
            self.tokens.append(token_id)
            if token_id in self._stop_ids or len(self.tokens) >= self._max_length:
                self.is_over = True
                break
        return tuple(fresh)

    def _open_gap(self, span: Span) -> None:
        """Add a gap, joined with the gaps it touches: one worker may then take over all of it."""
        touching = [g for g in self.gaps if g.start <= span.end and span.start <= g.end]
        start = min([span.start, *(gap.start for gap in touching)])
        end = max([span.end, *(gap.end for gap in touching)])
        self.gaps = [gap for gap in self.gaps if gap not in touching] + [Span(start, end)]
        self._is_waiting = False

    def _replace(self, span: Span, hops: Route) -> None:
        """Put `hops` in the place of the route's hops in `span`, whose shadows are done with."""
        self.route = spliced(self.route, span, hops)
        self._filled = {hop: self._filled.get(hop, 0) for hop in self.route}
        self._shadows = {h: s for h, s in self._shadows.items() if h in self.route}
        self._holes.tear(hops)

    def _drop_shadows(self, worker: PeerId) -> None:
        self._shadows = {h: s for h, s in self._shadows.items() if not s.involves(worker)}

    def _start_epoch(self) -> list[Action]:
        self._next_epoch()
        self._refill = None
        self._is_waiting = False
        return self._resume()

    def _next_epoch(self) -> None:
        self.epoch = self.last_epoch = self.last_epoch + 1

    def _resume(self) -> list[Action]:
        """Refill the first hops that lag behind the unanswered step; when none do, send it."""
        lagging = self._lagging(self._filled)
        if not lagging:
            return [*self._send_unanswered(self._filled), *self.feed_shadows()]
        first = last = lagging[0]
        while last + 1 in lagging:
            last += 1
        return self._send_refill(first, last)

    def _lagging(self, filled: Mapping[Hop, int]) -> list[int]:
        """The hops that the unanswered step alone would not bring up to its end."""
        oldest = self._oldest_start
        return [i for i, hop in enumerate(self.route) if filled[hop] < oldest]

    def _send_refill(self, first: int, last: int) -> list[Action]:
        """Bring hops `first` to `last` up to the unanswered step, or as far as one source goes."""
        start = min(self._filled[hop] for hop in self.route[first : last + 1])
        while first > 0 and self._held(self.route[first].span.start) <= start:
            first -= 1
        hops = self.route[first : last + 1]
        end = min(self._unanswered, start + self._most_filled)
        if first > 0:
            end = min(end, self._held(hops[0].span.start))
        self._filled |= {hop: min(start, self._filled[hop]) for hop in hops}  # they rewind
        refilled = self._filled | dict.fromkeys(hops, end)
        # by the links of the refill, which the unanswered step cannot overtake there
        is_followed = first == self._first_to_run and not self._lagging(refilled)
        self._refill = Refill(hops, end, is_followed)
        sends = chunks(hops, self.epoch, start, end, self._chunk_tokens)
        return [*sends, *(self._send_unanswered(refilled) if is_followed else ())]

    def _go_on(self) -> list[Action]:
        """The next step, after the shadows that are ready have taken over.

        It is held back for those that will be ready in a moment, so that the text pauses for no
        longer than one hop takes.
        """
        if not self._shadows:
            self._is_waiting = False
            if self._is_in_order:
                self.guesses.sent(self._unanswered)
                return [step(self.route, self.epoch, self._unanswered, self.guesses.pending)]
            return self._send_unanswered(self._filled, mends=True)
        leaving = [shadow for shadow in self._shadows.values() if shadow.takes_over]
        for shadow in leaving:
            if shadow.filled >= self._unanswered:
                self._replace(shadow.hop.span, shadow.hops)
                self._filled |= dict.fromkeys(shadow.hops, shadow.filled)
                self._next_epoch()
                self.num_advances += 1
                self.num_moves += 1
        fed = self._feed(self._unanswered)
        self._is_waiting = any(s.is_near(self._unanswered) for s in leaving if s.hop in self.route)
        return fed if self._is_waiting else [*self._send_unanswered(self._filled, mends=True), *fed]

    def _go_on_without(self) -> list[Action]:
        """Shadows may be gone that the next step waited for."""
        return self._go_on() if self._is_waiting and not self.gaps else []

    def _send_unanswered(self, filled: Mapping[Hop, int], *, mends: bool = False) -> list[Action]:
        """The step not answered yet, from the last boundary that spares hops which have run it.

        It begins before inputs that a hop still lacks, if they are few: that is sooner done than a
        refill of its own. And before those that a hole in the checkpoints lacks, if it `mends`:
        not right after a loss, when the text has paused for long enough.
        """
        first = self._first_to_run
        hops, end = self.route[first:], len(self.tokens)
        start = min(self._unanswered, *(filled[hop] for hop in hops))
        if mends:
            start = min(start, self._holes.mended_from(hops, self._oldest_start, self._unanswered))
        else:
            self._holes.look(self._oldest_start, self._unanswered)
        if first > 0 or start < self._unanswered:
            self.guesses.drop()  # they travel with the token ids of one step, so from block 0
        sends = [self._asking(s) for s in chunks(hops, self.epoch, start, end, self._chunk_tokens)]
        self.guesses.sent(sends[-1].position)
        return [*sends]

    @property
    def _is_in_order(self) -> bool:
        """Whether all hops have run all but the last token, and nothing else is to be asked."""
        if self._unanswered != len(self.tokens) - 1 or self._reader or self._owes_scores:
            return False
        return self._holes.is_whole and set(self._filled.values()) == {self._unanswered}

    def _asking(self, part: Send) -> Send:
        """A part of the unanswered step, with what is asked of it; samples after its last."""
        end = part.position + part.count
        scored = max(0, min(end, self._num_scored - 1) - part.position)
        read = self._reader.part(part.position, end) if self._reader else None
        part = replace(part, acknowledge=False, scored=scored, read=read)
        if end < len(self.tokens):
            return part
        guesses = self.guesses.pending
        count = part.count + len(guesses)
        return replace(part, count=count, sample=not self._reader, guesses=guesses)

    @property
    def _oldest_start(self) -> int:
        """Before which the unanswered step may not begin: in one chunk, or a loss between two
        would leave hops rewound. Who has refused a position may be unable to go back."""
        if self._owes_scores or self._reader or self._gap_refusals:
            return self._unanswered
        oldest = max(1, self._unanswered - MAX_MENDED_TOKENS, len(self.tokens) - self._chunk_tokens)
        return min(oldest, self._unanswered)

    @property
    def _first_to_run(self) -> int:
        """The first hop not known to reach the end of the unanswered step, or the nearest before it
        whose inputs are held that far, so that as few as possible run again."""
        first, end = 0, self.sent
        while first + 1 < len(self.route) and self._has_done(self.route[first], end):
            first += 1
        while first > 0 and self._held(self.route[first].span.start) < end:
            first -= 1
        return first
