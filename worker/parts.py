"""What a worker calls the part of a session that it holds. Pure."""

from shared.swarm import SessionId, Span
from shared.wire.messages import Step

PartKey = tuple[SessionId, Span]
"""A session and the blocks run here. A rebuilt session may have two parts on one worker."""


def part_of(step: Step) -> PartKey:
    """The part that a step is for."""
    return SessionId(step.session), step.hops[0].span
