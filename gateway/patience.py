"""How long one generation waits before it turns elsewhere or gives up. Pure: time comes in.

Only what moves the generation on counts as progress. A worker that talks without getting
anywhere is as silent as one that says nothing, and replacements that all refuse do not put off
the end of a recovery.

A step that takes far longer than those before it makes a generation look for another worker; only
one that takes longer than the operator allows speaks against the worker itself.
"""

from math import inf

USUAL_FACTOR = 10.0
"""How many times the usual a step may take before it counts as slow."""
LEAST_SLOW_SECONDS = 4.0
SMOOTHING = 0.2
"""Weight of the newest step in what is usual."""
SETTLED_STEPS = 8
"""Decode steps after which a route is worth preparing for the loss of its hops."""
MAX_COPY_SECONDS = 0.1
"""Most that a refill waits for the last copies of the hop before it."""


class Patience:
    """The clocks of one generation, in seconds of any monotonic clock."""

    def __init__(self, step_seconds: float, recovery_seconds: float, now: float) -> None:
        self._step_seconds = step_seconds
        self._recovery_seconds = recovery_seconds
        self._silent_since = now
        self._answered_at: float | None = None
        self._usual_seconds: float | None = None
        self._is_known_slow = False
        self._num_answers = 0
        self._trouble_since: float | None = None
        self.least_seconds = min(step_seconds, recovery_seconds, LEAST_SLOW_SECONDS)
        """How long after progress there is nothing to do about a silence, whatever it is."""

    def progressed(self, now: float, *, has_gaps: bool = False) -> None:
        """The generation moved on: all is well, but for gaps that opened while it was about to."""
        self._silent_since = now
        self._trouble_since = now if has_gaps else None
        self._is_known_slow = False

    def answered(self, now: float) -> None:
        """A decode step came back."""
        if self._answered_at is not None:
            seconds = now - self._answered_at
            usual = seconds if self._usual_seconds is None else self._usual_seconds
            self._usual_seconds = usual + SMOOTHING * (seconds - usual)
        self._answered_at = now
        self._num_answers += 1

    def rerouted(self, now: float) -> None:
        """Other workers were asked: they get a step's time of their own."""
        self._silent_since = now
        self._num_answers = 0
        self._answered_at = None  # what was in between is not what a step takes
        self._is_known_slow = False

    def lost(self, now: float) -> None:
        """A part of the route is gone; trouble lasts from its first loss to the next progress."""
        if self._trouble_since is None:
            self._trouble_since = now

    def no_others(self) -> None:
        """Nobody could take over from a slow worker, so it is waited for."""
        self._is_known_slow = True

    def is_over(self, now: float) -> bool:
        """Whether trouble has lasted too long."""
        since = self._trouble_since
        return since is not None and now >= since + self._recovery_seconds

    def copy_left(self, now: float, num_hops: int) -> float:
        """Seconds that a copy of the unanswered step's inputs is still worth waiting for.

        A hop sends what it had gathered when it hears that the next is lost, which may be a moment
        after the gateway does. With it the newcomer runs the step right after the refill, without
        it the hop runs it anew after that: waiting for as long as a hop takes costs no more.
        """
        if self._trouble_since is None or self._usual_seconds is None:
            return 0.0
        worth = min(self._usual_seconds / num_hops, MAX_COPY_SECONDS)
        return max(0.0, self._trouble_since + worth - now)

    @property
    def has_settled(self) -> bool:
        """Whether a route has just come to be one that works."""
        return self._num_answers == SETTLED_STEPS

    def is_silent(self, now: float) -> bool:
        """Whether a step has taken longer than any may."""
        return now >= self._silent_since + self._step_seconds

    def left(self, now: float, *, has_gaps: bool, busy_seconds: float | None = None) -> float:
        """Seconds until there is something to do about the silence. With gaps it is no fault.

        `busy_seconds` is how long the workers of a decode step may be busy with others' work
        before they come to it; None stands for a step whose time nothing is known of.
        """
        ends_at = inf if has_gaps else self._silent_since + self._allowed(busy_seconds)
        if self._trouble_since is not None:
            ends_at = min(ends_at, self._trouble_since + self._recovery_seconds)
        return ends_at - now if now < ends_at < inf else 0.0

    def _allowed(self, busy_seconds: float | None) -> float:
        if busy_seconds is None or self._usual_seconds is None or self._is_known_slow:
            return self._step_seconds
        slow = USUAL_FACTOR * self._usual_seconds + 2 * busy_seconds
        return min(self._step_seconds, max(slow, LEAST_SLOW_SECONDS))
