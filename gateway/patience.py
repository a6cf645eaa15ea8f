"""How long one generation waits before it blames or gives up. Pure: time comes in.

Only what moves the generation on counts as progress. A worker that talks without getting
anywhere is as silent as one that says nothing, and replacements that all refuse do not put off
the end of a recovery.
"""


class Patience:
    """The clocks of one generation, in seconds of any monotonic clock."""

    def __init__(self, step_seconds: float, recovery_seconds: float, now: float) -> None:
        self._step_seconds = step_seconds
        self._recovery_seconds = recovery_seconds
        self._silent_since = now
        self._trouble_since: float | None = None

    def progressed(self, now: float) -> None:
        """The generation moved on: all is well."""
        self._silent_since = now
        self._trouble_since = None

    def rerouted(self, now: float) -> None:
        """Other workers were asked: they get a step's time of their own."""
        self._silent_since = now

    def lost(self, now: float) -> None:
        """A part of the route is gone; trouble lasts from its first loss to the next progress."""
        if self._trouble_since is None:
            self._trouble_since = now

    def is_over(self, now: float) -> bool:
        """Whether trouble has lasted too long."""
        since = self._trouble_since
        return since is not None and now >= since + self._recovery_seconds

    def left(self, now: float, *, has_gaps: bool) -> float:
        """Seconds until silence or trouble has lasted too long. With gaps, silence is no fault."""
        ends = [] if has_gaps else [self._silent_since + self._step_seconds]
        if self._trouble_since is not None:
            ends.append(self._trouble_since + self._recovery_seconds)
        return max(0.0, min(ends, default=now) - now)
