"""What it costs to run a session through a worker, in seconds over the session's whole life. Pure.

A session's time is that of its prompt, once, and that of a decode step, for every new token:

    block   each step: the pace in the batch it joins; once: the pace of prompts, by its length
    hop     each step: its handling, and the wait for a forward under way; once: what is queued
    way     each step: the delay; once: the prompt's hidden states, by the uplink
"""

from collections.abc import Set
from statistics import median

import msgspec

from shared.pace import Pace
from shared.survey import Delays, Load, Needs, Survey
from shared.swarm import Announcement, PeerId, Span

HOP_SECONDS = 0.001
"""A hop's handling of a step. On 2 shared cores `make bench ARGS=hop` measures about as much."""

USUAL_PACE = Pace((0.005, 0.010, 0.025), prefill=0.0005)
"""Of a worker that tells none: in the middle of what machines of volunteers take."""

SLOWEST = 1.0
"""Bytes a second, so that whatever a worker tells, what it costs is a number."""

NO_DELAYS: Delays = {}


class Offer(msgspec.Struct, frozen=True):
    """A worker that may be used, and what it costs. A struct: hundreds are made for a route."""

    worker: PeerId
    start: int
    end: int
    block_seconds: float
    """For each block it runs."""
    hop_seconds: float
    """For being a hop at all, and for sending its output of the prompt on."""
    way_seconds: float
    """For the way from the gateway, or to it."""
    sees_tokens: bool
    """Whether it may be at an end of a route."""
    has_room: bool
    delays: Delays
    """Its measured delays to others."""
    is_attached: bool = False
    """Whether nobody can dial it, so that what others push to it goes through the gateway."""

    @property
    def price(self) -> float:
        """For each block, if it runs all it may."""
        once = self.hop_seconds + self.way_seconds
        return self.block_seconds + once / (self.end - self.start)


class Prices:
    """What a session with certain needs costs on the workers of a survey."""

    def __init__(self, survey: Survey, needs: Needs) -> None:
        self._survey = survey
        self._needs = needs
        self._steps = needs.new_tokens + 1
        self._tokens = needs.tokens
        self._usual_delay = median(survey.delays.values()) if survey.delays else 0.0
        self.known = survey.delays.keys() | survey.loads.keys()
        """The workers of whom more is known than they announce."""
        once = self._steps * (HOP_SECONDS + self._usual_delay)
        self.weights = (needs.new_tokens, needs.prompt_tokens, once)
        """What a block's decode step, a block's token of a prompt and a hop of others count for."""

    def offer(self, announced: Announcement, part: Span, trusted: Set[PeerId] | None) -> Offer:
        """What this worker costs in that part of the model, as far as it hosts it."""
        needs, steps = self._needs, self._steps
        worker, hosted, pace = announced.worker, announced.span, pace_of(announced)
        load = self._survey.loads.get(worker)
        hop_seconds = steps * HOP_SECONDS
        decode_seconds = pace.decode[0]
        if load is not None:
            decode_seconds = pace.decode_seconds(load.sessions + 1)
            hop_seconds += steps * _wait_seconds(load, pace, len(hosted))
            hop_seconds += load.queued_tokens * pace.prefill * len(hosted)
            if load.bytes_per_second:
                rate = max(SLOWEST, load.bytes_per_second)
                hop_seconds += needs.prompt_tokens * needs.row_bytes / rate
        return Offer(
            worker,
            hosted.start if hosted.start > part.start else part.start,
            hosted.end if hosted.end < part.end else part.end,
            needs.new_tokens * decode_seconds + needs.prompt_tokens * pace.prefill,
            hop_seconds,
            steps * self._survey.delays.get(worker, self._usual_delay),
            trusted is None or worker in trusted,
            self._has_room(announced.max_tokens, load),
            self._survey.between.get(worker, NO_DELAYS),
            not announced.url,
        )

    def _has_room(self, max_tokens: int, load: Load | None) -> bool:
        """Whether the session's caches fit, for as much as is known."""
        if max_tokens and self._tokens > max_tokens:
            return False
        return load is None or load.room_tokens is None or self._tokens <= load.room_tokens

    def way(self, origin: Offer, target: Offer) -> float:
        """Of crossing from one worker to the next.

        A delay that neither has measured lies, by the triangle inequality, between the difference
        and the sum of those from the gateway to the two: the middle is the larger of them. To one
        that cannot be dialled it is the sum, and the gateway handles the step too.
        """
        delay = origin.delays.get(target.worker)
        if delay is None:
            delay = target.delays.get(origin.worker)
        if delay is None:
            ours, others = origin.way_seconds, target.way_seconds
            if target.is_attached:  # from the one to us and from us to the other
                return ours + others + self._steps * HOP_SECONDS
            return ours if ours > others else others
        return self._steps * delay

    def way_to_end(self, offer: Offer, neighbour: PeerId | None) -> float:
        """Of the way between an end of a route and the hop it joins, or the gateway."""
        delay = offer.delays.get(neighbour) if neighbour else None
        return offer.way_seconds if delay is None else self._steps * delay


def pace_of(announced: Announcement) -> Pace:
    """How fast a worker is, or may be taken to be."""
    return announced.pace if announced.pace.is_known else USUAL_PACE


def _wait_seconds(load: Load, pace: Pace, num_blocks: int) -> float:
    """A step finds a forward under way as often as the worker is busy, and half of it left."""
    if not load.sessions:
        return 0.0
    return 0.5 * load.busy * pace.decode_seconds(load.sessions) * num_blocks
