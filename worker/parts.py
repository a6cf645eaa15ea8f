"""What a worker calls the part of a session that it holds. Pure."""

from shared.swarm import SessionId, Span

PartKey = tuple[SessionId, Span]
"""A session and the blocks run here. A rebuilt session may have two parts on one worker."""
