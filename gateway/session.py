"""One generation: events in, actions out. Pure: no clock, no sockets, no tensors.

A session knows its tokens, its route, and how far each hop's cache is known to reach. A new
session is one whose whole route is lost; a worker that vanishes leaves a gap; both are closed by
`rerouted`. Then lagging hops are refilled up to the unanswered step, from the nearest boundary
upstream whose inputs are held, at worst from the token ids at block 0, and the unanswered step is
sent again. Hops that rewind only run again what they have run before.

Each change of route starts an epoch, and workers drop steps of an older one, so that a worker
believed dead cannot disturb those who took over.

A step may carry guesses of the tokens to come. As a sampled token depends on nothing but the
logits, the parameters and its position, a guess is right exactly when it is the token sampled in
its place: the text is the same with guesses and without. What wrong guesses left in a cache is
overwritten by the next step, whose position comes before it.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise

from shared.errors import RefusalCode
from shared.swarm import Hop, PeerId, Route, Span, tiles
from shared.wire.messages import TokenLogprobs

MAX_GAP_REFUSALS = 16
"""Position gaps a worker may report in one session before it counts as lost."""


@dataclass(frozen=True)
class Send:
    """Run inputs `[position, position + count)` of the first hop's block through `hops`.

    With `sample`, tokens are wanted after the last input that is no guess and after each of the
    `guesses`, which are the last of the inputs.
    """

    hops: Route
    epoch: int
    position: int
    count: int
    sample: bool = False
    acknowledge: bool = False
    guesses: tuple[int, ...] = ()


@dataclass(frozen=True)
class Emit:
    """Token ids the client has not seen yet, and their logprobs if they came with any."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


Action = Send | Emit


class Session:
    """One generation's state. `num_advances` grows whenever something moved it on.

    `held(block)` says how many inputs of a block are checkpointed; `guess(tokens)` what may
    follow them.
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
        guess: Callable[[Sequence[int]], tuple[int, ...]] = lambda tokens: (),
    ) -> None:
        self.tokens = list(prompt)
        self.route: Route = ()
        self.gaps: list[Span] = [blocks]
        self.epoch = 0
        self.is_over = False
        self._stop_ids = stop_ids
        self._max_length = len(prompt) + max_tokens
        self._chunk_tokens = chunk_tokens
        self._held = held
        self._guess = guess
        self._guesses: tuple[int, ...] = ()
        self._guessing_at: int | None = None
        self._guessed_right_until: dict[int, int] = {}
        self.num_advances = 0
        self.num_guessed = 0
        self.num_guessed_right = 0
        self._unanswered = 0
        self._filled: dict[Hop, int] = {}
        self._refill: tuple[Route, int] | None = None
        self._gap_refusals: dict[PeerId, int] = {}

    @property
    def confirmed(self) -> int:
        """The length of the text whose inputs every hop has run: all but the last token."""
        return self._unanswered

    @property
    def sent(self) -> int:
        """The end of the inputs that any hop can have run: the text and the guesses after it."""
        return len(self.tokens) + len(self._guesses)

    def is_next(self, worker: PeerId, other: PeerId) -> bool:
        """Whether `other` follows `worker` on the route."""
        return any(a.worker == worker and b.worker == other for a, b in pairwise(self.route))

    def worker_lost(self, worker: PeerId) -> None:
        """A worker went silent, closed or refused: its hops become gaps."""
        for hop in self.route:
            if hop.worker == worker:
                self._open_gap(hop.span)

    def is_lost(self, worker: PeerId) -> bool:
        """Whether a hop of this worker lies in a gap."""
        return any(
            hop.worker == worker and any(gap.covers(hop.span) for gap in self.gaps)
            for hop in self.route
        )

    def rerouted(self, gap: Span, hops: Route, *, reused: int = 0) -> list[Action]:
        """Other workers take over a gap. Nothing is sent before the last gap is closed.

        The first `reused` positions, fewer than there are tokens, should be in their caches
        already, kept from another session; a hop that has fewer will refuse and be refilled.
        """
        if not self.route:
            self._unanswered = reused
        assert gap in self.gaps
        assert tiles(hops, gap)
        before = tuple(hop for hop in self.route if hop.span.end <= gap.start)
        after = tuple(hop for hop in self.route if hop.span.start >= gap.end)
        self.route = before + hops + after
        self.gaps.remove(gap)
        self._filled = {hop: self._filled.get(hop, 0) for hop in before + after}
        self._filled |= dict.fromkeys(hops, min(reused, self._unanswered))
        return [] if self.gaps else self._start_epoch()

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
        if not self.route or worker != self.route[-1].worker:
            return []
        self.num_advances += 1
        fresh = self._take(self._right(token_ids))
        emit = Emit(fresh, logprobs[: len(fresh)])
        self._unanswered = len(self.tokens) - 1
        if self._guessing_at is not None:
            self._guessed_right_until[self._guessing_at] = self._unanswered
            self._guessing_at = None
        self._filled = dict.fromkeys(self.route, self._unanswered)
        if not self.is_over:
            self._guesses = self._guess(self.tokens)[: self._max_length - len(self.tokens) - 1]
        if self.is_over or self.gaps:
            return [emit]
        return [*self._send_unanswered(), emit]

    def filled(self, worker: PeerId, epoch: int, block: int, position: int) -> list[Action]:
        """A refill reached the end of its hops."""
        if self._refill is None or epoch != self.epoch:
            return []
        hops, end = self._refill
        if (hops[-1].worker, hops[-1].span.end, end) != (worker, block, position):
            return []
        self.num_advances += 1
        self._refill = None
        self._filled |= dict.fromkeys(hops, end)
        return [] if self.gaps else self._resume()

    def checkpointed(
        self, worker: PeerId, epoch: int, block: int, position: int, count: int
    ) -> int:
        """A hop pushed its outputs on, so its own cache reaches their end.

        Returns how many of the outputs belong to the text: those of wrong guesses do not.
        """
        end = min(position + count, self._guessed_right_until.get(position, position + count))
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
        if epoch != self.epoch or all(hop.worker != worker for hop in self.route):
            return []
        if reason == "next_unreachable":
            self.worker_lost(lost)
            return []
        refusals = self._gap_refusals[worker] = self._gap_refusals.get(worker, 0) + 1
        if reason != "position_gap" or refusals > MAX_GAP_REFUSALS:
            self.worker_lost(worker)
            return []
        for hop in self.route:
            if hop.worker == worker:
                self._filled[hop] = min(self._filled[hop], cached)
        return [] if self.gaps else self._start_epoch()

    def suspect(self) -> PeerId | None:
        """Whom to blame when nothing comes: the first hop not known to have done its part."""
        target = self._refill[1] if self._refill else len(self.tokens)
        hops = self._refill[0] if self._refill else self.route
        behind = [hop for hop in hops if self._filled[hop] < target]
        return (behind or [self.route[-1]])[0].worker if self.route else None

    def _right(self, token_ids: Sequence[int]) -> Sequence[int]:
        """The sampled tokens up to the first that was guessed wrong or not at all."""
        right = 0
        while right < min(len(self._guesses), len(token_ids) - 1):
            if token_ids[right] != self._guesses[right]:
                break
            right += 1
        self.num_guessed += len(self._guesses)
        self.num_guessed_right += right
        return token_ids[: right + 1]

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

    def _start_epoch(self) -> list[Action]:
        self.epoch += 1
        self._refill = None
        return self._resume()

    def _resume(self) -> list[Action]:
        """Refill the first hops that lag behind the unanswered step; when none do, send it."""
        lagging = [i for i, hop in enumerate(self.route) if self._filled[hop] < self._unanswered]
        if not lagging:
            return self._send_unanswered()
        first = last = lagging[0]
        while last + 1 in lagging:
            last += 1
        return self._send_refill(first, last)

    def _send_refill(self, first: int, last: int) -> list[Action]:
        """Bring hops `first` to `last` up to the unanswered step, or as far as one source goes."""
        start = min(self._filled[hop] for hop in self.route[first : last + 1])
        while first > 0 and self._held(self.route[first].span.start) <= start:
            first -= 1
        hops = self.route[first : last + 1]
        end = self._unanswered
        if first > 0:
            end = min(end, self._held(hops[0].span.start))
        self._filled |= {hop: min(start, self._filled[hop]) for hop in hops}  # they rewind
        self._refill = (hops, end)
        return [*self._chunks(hops, start, end, acknowledge=True)]

    def _send_unanswered(self) -> list[Action]:
        """The step not answered yet, from the last boundary that spares hops which have run it."""
        end = len(self.tokens)
        first = self._first_to_run(end + len(self._guesses))
        if first > 0:
            self._guesses = ()  # they travel with the token ids, so only from block 0
        *chunks, last = self._chunks(self.route[first:], self._unanswered, end, sample=True)
        if self._guesses:
            self._guessing_at = last.position
        count = last.count + len(self._guesses)
        return [*chunks, replace(last, count=count, guesses=self._guesses)]

    def _first_to_run(self, end: int) -> int:
        """The first hop not known to reach `end`, if its inputs are held; else the first of all."""
        first = 0
        while first + 1 < len(self.route) and self._filled[self.route[first]] >= end:
            first += 1
        return first if self._held(self.route[first].span.start) >= end else 0

    def _chunks(
        self, hops: Route, start: int, end: int, *, sample: bool = False, acknowledge: bool = False
    ) -> list[Send]:
        sends: list[Send] = []
        for position in range(start, end, self._chunk_tokens):
            count = min(self._chunk_tokens, end - position)
            is_last = position + count == end
            sends.append(
                Send(hops, self.epoch, position, count, sample and is_last, acknowledge and is_last)
            )
        return sends
