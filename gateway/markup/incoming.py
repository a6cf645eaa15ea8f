"""A text that is still arriving, and how it is read. Pure.

A reading is a generator: it yields events, and None where it cannot go on without more text. What
it tells depends on the text alone, never on how the text was cut.
"""

from collections.abc import Callable, Generator

import msgspec


class Shown(msgspec.Struct, frozen=True):
    """Text for the reader, which begins at `start` of the whole text."""

    text: str
    start: int


class Thinking(msgspec.Struct, frozen=True):
    """Text of the model's thoughts, likewise."""

    text: str
    start: int


class Begun(msgspec.Struct, frozen=True):
    """A call of this name begins."""

    name: str


class Arguments(msgspec.Struct, frozen=True):
    """More of the arguments of the call that began last."""

    fragment: str


class Done(msgspec.Struct, frozen=True):
    """That call is over; `is_complete` when its arguments are a JSON object."""

    is_complete: bool


Event = Shown | Thinking | Begun | Arguments | Done
Reading = Generator[Event | None, None, None]
Asking = Generator[Event | None, None, bool]


class Incoming:
    """What has arrived of a text and is not read yet."""

    def __init__(self) -> None:
        self.text = ""
        self.start = 0
        self.is_ended = False
        self.is_thinking = False
        self.rest_is: Callable[[str, int], Event] | None = None
        """What all that is not read yet is told as, once nothing is looked for any more."""

    def skip(self, size: int) -> None:
        """The first characters are read."""
        self.text = self.text[size:]
        self.start += size

    def take(self, size: int, kind: Callable[[str, int], Event]) -> Event:
        """The first characters, as an event of that kind."""
        event = kind(self.text[:size], self.start)
        self.skip(size)
        return event

    def until(self, markers: tuple[str, ...], kind: Callable[[str, int], Event]) -> Reading:
        """Tell the text up to the first marker, and without the white space before it.

        Both stay unread. Without a marker all is told, to the end.
        """
        while True:
            found = [at for marker in markers if (at := self.text.find(marker)) >= 0]
            if found:
                if size := len(self.text[: min(found)].rstrip()):
                    yield self.take(size, kind)
                return
            size = len(self.text) if self.is_ended else self._num_certain(markers)
            if size:
                yield self.take(size, kind)
            if self.is_ended:
                return
            yield None

    def rest(self, kind: Callable[[str, int], Event]) -> Reading:
        """Tell all that comes."""
        self.rest_is = kind
        return self.until((), kind)

    def skip_space(self, also: str = "") -> Reading:
        """Read over white space and the characters of `also`."""
        while True:
            self.skip(len(self.text) - len(self.text.lstrip(" \t\r\n" + also)))
            if self.text or self.is_ended:
                return
            yield None

    def accept(self, marker: str) -> Asking:
        """Read over white space and a marker if they come next; whether they did."""
        while True:
            stripped = self.text.lstrip()
            if stripped.startswith(marker):
                self.skip(len(self.text) - len(stripped) + len(marker))
                return True
            if self.is_ended or not marker.startswith(stripped):
                return False
            yield None

    def _num_certain(self, markers: tuple[str, ...]) -> int:
        """How many of the first characters are no beginning of a marker, nor space before one."""
        if not markers:
            return len(self.text)
        return len(self.text[: len(self.text) - num_doubtful(self.text, markers)].rstrip())


def num_doubtful(text: str, markers: tuple[str, ...]) -> int:
    """How many of the last characters may be the beginning of a marker."""
    longest = max(map(len, markers), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(marker.startswith(text[-size:]) for marker in markers):
            return size
    return 0
