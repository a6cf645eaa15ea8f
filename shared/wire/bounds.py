"""What one peer may cost us on its links: frames a second, memory, connections. Pure.

A peer that asks for too much waits, or loses its link; the others go on as if it were not there.
"""

from collections import Counter

from shared.wire.codec import Frame
from shared.wire.messages import DialBack, Introduce, Relay

FRAMES_PER_SECOND = 20_000.0
"""A frame takes our event loop some 20 us, so that nobody gets much more than a third of it."""
BURST_FRAMES = 40_000.0
FRAMES_PER_RECORD = 10
"""A signature takes as long to check as so many frames take to handle."""
RELAYED_BYTES_PER_FRAME = 8 << 10
"""What is passed on goes out again: so that one peer has some 160 MB/s of our uplink at most."""
MAX_LINKS = 1024
MAX_LINKS_PER_ADDRESS = 64


def cost_of(frame: Frame) -> int:
    """What a frame costs us, in the least of frames."""
    match frame.message:
        case Introduce(records=records):
            return 1 + FRAMES_PER_RECORD * len(records)
        case DialBack():
            return 1 + FRAMES_PER_RECORD
        case Relay():
            return 1 + len(frame.payload) // RELAYED_BYTES_PER_FRAME
        case _:
            return 1


class Allowance:
    """How fast a peer's frames are read."""

    def __init__(self) -> None:
        self._paid_until = 0.0

    def pause_seconds(self, cost: int, now: float) -> float:
        """How long the peer's next frame must wait after one of this cost; 0 unless it hurries."""
        paid_until = self._paid_until if self._paid_until > now else now
        self._paid_until = paid_until = paid_until + cost / FRAMES_PER_SECOND
        ahead = paid_until - now - BURST_FRAMES / FRAMES_PER_SECOND
        return ahead if ahead > 0 else 0.0


class Room:
    """Memory that many share: each may hold as much as is left over, so something always is.

    The rule is Dynamic Thresholds, Choudhury and Hahne, https://doi.org/10.1109/90.664262.
    """

    def __init__(self, num_bytes: int) -> None:
        self.left = num_bytes

    def has_for(self, held: int, more: int) -> bool:
        """Whether one who holds `held` bytes may hold `more` of them besides."""
        return held + more <= self.left - more

    def take(self, num_bytes: int) -> None:
        """Count bytes as held; negative ones as given back."""
        self.left -= num_bytes


class Doors:
    """The connections that are open, by the address they come from."""

    def __init__(self, *, per_address: int = MAX_LINKS_PER_ADDRESS) -> None:
        self._per_address = per_address
        self._open: Counter[str] = Counter()

    def enter(self, address: str) -> str:
        """Let a connection in and return "", or say why not; `leave` when it ends."""
        if self._open.total() >= MAX_LINKS:
            return f"this peer has its {MAX_LINKS} links; try another or come back later"
        if self._per_address and self._open[address] >= self._per_address:
            return f"{address} has its {self._per_address} links here"
        self._open[address] += 1
        return ""

    def leave(self, address: str) -> None:
        """A connection that was let in has ended."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
