"""How often and on how many streams one peer may ask us. Pure: the time comes in."""

from dataclasses import dataclass

MAX_STREAMS_PER_PEER = 4
MAX_STREAMS = 1024
REQUESTS_PER_SECOND = 20.0
BURST_REQUESTS = 40


@dataclass
class _Visitor:
    num_streams: int = 0
    paid_until: float = 0.0
    """When every request so far is paid for, at one per 1 / REQUESTS_PER_SECOND seconds."""


class Visits:
    """The peers that have a stream open to us."""

    def __init__(self) -> None:
        self._visitors: dict[str, _Visitor] = {}
        self._num_streams = 0

    def enter(self, peer: str) -> bool:
        """Whether a further stream of the peer is let in; `leave` when it ends."""
        visitor = self._visitors.get(peer, _Visitor())
        if self._num_streams >= MAX_STREAMS or visitor.num_streams >= MAX_STREAMS_PER_PEER:
            return False
        self._visitors[peer] = visitor
        visitor.num_streams += 1
        self._num_streams += 1
        return True

    def leave(self, peer: str) -> None:
        """A stream that was let in has ended."""
        visitor = self._visitors[peer]
        visitor.num_streams -= 1
        self._num_streams -= 1
        if visitor.num_streams == 0:
            del self._visitors[peer]

    def pause_seconds(self, peer: str, now: float) -> float:
        """How long the peer's next request must wait; 0 unless it asks too often."""
        visitor = self._visitors[peer]
        visitor.paid_until = max(visitor.paid_until, now) + 1 / REQUESTS_PER_SECOND
        return max(0.0, visitor.paid_until - now - BURST_REQUESTS / REQUESTS_PER_SECOND)
