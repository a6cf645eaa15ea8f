"""Announcements for tests, and clocks that stand still until told."""

import time
from typing import Any

from shared.identity import Identity
from shared.records import sign_announcement
from shared.swarm import Announcement, Span, topic_of

TOPIC = topic_of("test", "acme/tiny", "abc123")
NOW = 1_800_000_000.0
ANN, BOB, CYD = (Identity(bytes([n]) * 32) for n in range(3))


class Clock:
    """A clock set by hand."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def announcement(identity: Identity = ANN, **changes: Any) -> Announcement:
    """What a worker might announce at NOW."""
    fields: dict[str, Any] = {
        "worker": identity.peer,
        "swarm": "test",
        "model": "acme/tiny",
        "revision": "abc123",
        "span": Span(0, 8),
        "num_blocks": 24,
        "url": "ws://127.0.0.1:9000",
        "dtype": "float32",
        "sequence": 1,
        "issued_at": NOW,
        "lease_seconds": 12.0,
    }
    return Announcement(**fields | changes)


def record(identity: Identity = ANN, **changes: Any) -> bytes:
    """The signed record of what a worker might announce at NOW."""
    return sign_announcement(identity, announcement(identity, **changes))


def live_record(identity: Identity, **changes: Any) -> bytes:
    """A record issued just now, for real clocks."""
    return record(identity, **{"issued_at": time.time()} | changes)
