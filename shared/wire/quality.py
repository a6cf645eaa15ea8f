"""How long the way over a link is and how much it carries, from pings that are answered. Pure.

As in BBR (https://doi.org/10.1145/3012426.3022184): the least round trip and the greatest rate of
late are the link's own, all else is queues. What is sent right behind a large frame is answered
when that has arrived, and so tells the rate.
"""

from collections import deque

LARGE_BYTES = 64 << 10
"""Smaller frames say little about a rate."""
MAX_SAMPLES = 16
"""Round trips that the least is of: about a minute's."""
MAX_RATES = 8
FASTEST = 1e12
"""Bytes a second, more than any network carries: what seems to be faster was a quirk of clocks."""


class Quality:
    """What the answers to pings say about one link."""

    def __init__(self) -> None:
        self._round_trips: deque[float] = deque(maxlen=MAX_SAMPLES)
        self._rates: deque[float] = deque(maxlen=MAX_RATES)

    @property
    def delay_seconds(self) -> float | None:
        """One way; None before the first answer."""
        return min(self._round_trips) / 2 if self._round_trips else None

    @property
    def bytes_per_second(self) -> float:
        """What it carries; 0 until something large has gone over it."""
        return max(self._rates, default=0.0)

    def answered(self, seconds: float, num_bytes: int = 0) -> None:
        """A ping came back `seconds` after it, or a frame of so many bytes before it, was sent."""
        if num_bytes < LARGE_BYTES:
            self._round_trips.append(seconds)
        elif self._round_trips and seconds > (empty := min(self._round_trips)):
            self._rates.append(min(num_bytes / (seconds - empty), FASTEST))
