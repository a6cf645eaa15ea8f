"""Inputs that run once more, so that caches reach the unanswered step. Pure."""

from dataclasses import dataclass

from msgspec.structs import replace

from gateway.actions import Send
from shared.swarm import PeerId, Route


@dataclass(frozen=True)
class Refill:
    """A refill of `hops` up to position `end`, under way.

    With `is_followed` the unanswered step went right after it.
    """

    hops: Route
    end: int
    is_followed: bool = False

    def ends_at(self, worker: PeerId, block: int, position: int) -> bool:
        """Whether it is all done when this worker's outputs, the inputs of `block`, get there."""
        last = self.hops[-1]
        return (last.worker, last.span.end, self.end) == (worker, block, position)


def chunks(hops: Route, epoch: int, start: int, end: int, most: int) -> list[Send]:
    """Inputs `[start, end)` in parts of at most `most`; the arrival of the last is acknowledged."""
    positions = range(start, end, most)
    sends = [Send(hops, epoch, at, min(most, end - at)) for at in positions]
    return [*sends[:-1], replace(sends[-1], acknowledge=True)]


def step(hops: Route, epoch: int, position: int, guesses: tuple[int, ...]) -> Send:
    """The step of a session in order: one token, and the guesses after it. Nearly all steps are
    such; to work them out as any other takes several times as long."""
    return Send(hops, epoch, position, 1 + len(guesses), sample=True, guesses=guesses)
