"""Gathers the copies of decode steps' outputs on their way to the gateway. Pure.

A token's hidden states are small, and a frame for each would cost the gateway more than what is
in it. Copies of prefill steps, and of steps that ask for it, go out as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from shared.swarm import PeerId
from shared.wire.messages import MAX_GATHERED_TOKENS, Checkpoint

GATHER_SECONDS = 0.05
"""How long a copy may wait for others."""

Send = Callable[[PeerId, Checkpoint, bytes], None]


@dataclass
class _Gathered:
    """Copies of steps that follow each other, for one gateway."""

    gateway: PeerId
    first: Checkpoint
    payloads: list[bytes] = field(default_factory=list[bytes])

    def is_followed_by(self, copy: Checkpoint) -> bool:
        return (copy.epoch, copy.dtype, copy.position) == (
            self.first.epoch,
            self.first.dtype,
            self.first.position + len(self.payloads),
        )


class Copies:
    """What waits to be sent, at most MAX_GATHERED_TOKENS for each session and block."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: dict[tuple[bytes, int], _Gathered] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, gateway: PeerId, copy: Checkpoint, payload: bytes, *, gathers: bool) -> None:
        """Take a copy: to wait if it `gathers` and is of one token, else to go at once."""
        key = (copy.session, copy.block)
        waiting = self._waiting.get(key)
        may_wait = gathers and copy.count == 1
        if waiting and not (may_wait and waiting.is_followed_by(copy)):
            self._flush(key)
            waiting = None
        if not may_wait:
            self._send(gateway, copy, payload)
            return
        if waiting is None:
            waiting = self._waiting[key] = _Gathered(gateway, copy)
        waiting.payloads.append(payload)
        if len(waiting.payloads) == MAX_GATHERED_TOKENS:
            self._flush(key)

    def flush(self) -> None:
        """Send all that waits."""
        for key in list(self._waiting):
            self._flush(key)

    def drop(self, session: bytes) -> None:
        """Forget what waits for a session that is over."""
        self._waiting = {key: w for key, w in self._waiting.items() if key[0] != session}

    def _flush(self, key: tuple[bytes, int]) -> None:
        waiting = self._waiting.pop(key)
        copy = msgspec.structs.replace(waiting.first, count=len(waiting.payloads))
        self._send(waiting.gateway, copy, b"".join(waiting.payloads))
