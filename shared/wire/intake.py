"""The server's end of a WebSocket, which holds no more of what comes than its peer may have held.

The websockets library buffers a frame until it is whole, and believes its announced length up to
`max_size`, before anybody has proven who they are.
"""

from typing import Any

from websockets.asyncio.server import ServerConnection

from shared.wire.bounds import Room

MAX_UNREAD_BYTES = 1 << 30
"""Unfinished frames of all links of a process."""
MAX_UNPROVEN_BYTES = 16 << 10
"""What a stranger may send before its handshake is over; what follows stays in the kernel."""


class Intake(ServerConnection):
    """A connection that stops reading until its peer has proven itself, and keeps to `room`."""

    def __init__(self, *args: Any, room: Room, **options: Any) -> None:
        super().__init__(*args, **options)
        self._room = room
        self._held = 0
        self._num_unproven = 0
        self._is_proven = False

    def proven(self) -> None:
        """The handshake is over: read on."""
        self._is_proven = True
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        super().data_received(data)
        if not self._is_proven:
            self._num_unproven += len(data)
            if self._num_unproven > MAX_UNPROVEN_BYTES:
                self.transport.pause_reading()
        self._hold(len(self.protocol.reader.buffer))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        super().connection_lost(exc)
        self._hold(0)

    def _hold(self, num_bytes: int) -> None:
        is_too_much = num_bytes > self._held and not self._room.has_for(
            self._held, num_bytes - self._held
        )
        self._room.take(num_bytes - self._held)
        self._held = num_bytes
        if is_too_much:
            self.transport.abort()
