"""Where the frames of a WebSocket connection begin and end, in one direction. Pure.

https://www.rfc-editor.org/rfc/rfc6455#section-5.2
"""

_HEAD_END = b"\r\n\r\n"
_LONG_LENGTH_BYTES = {126: 2, 127: 8}


class FrameEdges:
    """Follows the bytes of one direction, its HTTP head included."""

    def __init__(self) -> None:
        self._is_http = True
        self._head = b""
        self._left = 0

    @property
    def is_at_edge(self) -> bool:
        """Whether the next byte begins a frame."""
        return not (self._is_http or self._head or self._left)

    def feed(self, data: bytes) -> list[int]:
        """The offsets in `data` right behind the end of a frame, or of the HTTP head."""
        edges: list[int] = []
        offset = 0
        while offset < len(data):
            offset += self._take(data[offset:])
            if self.is_at_edge:
                edges.append(offset)
        return edges

    def _take(self, data: bytes) -> int:
        """Follow some of `data`; how much of it."""
        if self._left:
            size = min(self._left, len(data))
            self._left -= size
            return size
        self._head += data[:1]
        if self._is_http:
            self._is_http = not self._head.endswith(_HEAD_END)
            self._head = self._head if self._is_http else b""
        elif len(self._head) == _head_bytes(self._head):
            self._left = _payload_bytes(self._head)
            self._head = b""
        return 1


def _head_bytes(head: bytes) -> int:
    """How long a frame's head is that begins like this."""
    if len(head) < 2:
        return 2
    mask_bytes = 4 if head[1] & 0x80 else 0
    return 2 + _LONG_LENGTH_BYTES.get(head[1] & 0x7F, 0) + mask_bytes


def _payload_bytes(head: bytes) -> int:
    short = head[1] & 0x7F
    size = _LONG_LENGTH_BYTES.get(short, 0)
    return int.from_bytes(head[2 : 2 + size], "big") if size else short
