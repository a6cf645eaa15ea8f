"""Runs a reading over a text as it comes. Pure."""

from collections.abc import Callable

from gateway.markup.incoming import Event, Incoming, Reading, Shown


class Reader:
    """Text in, events out."""

    def __init__(self, reading: Callable[[Incoming], Reading]) -> None:
        self._source = Incoming()
        self._reading = reading(self._source)

    @property
    def is_thinking(self) -> bool:
        """Whether what came last belongs to the model's thoughts."""
        return self._source.is_thinking

    def feed(self, text: str) -> list[Event]:
        """What more of the text tells."""
        source = self._source
        if not text:
            return []
        if source.rest_is and not source.text:  # most of most answers
            event = source.rest_is(text, source.start)
            source.start += len(text)
            return [event]
        source.text += text
        return self._events()

    def end(self) -> list[Event]:
        """What the text tells now that it is whole."""
        self._source.is_ended = True
        return self._events()

    def _events(self) -> list[Event]:
        events: list[Event] = []
        for event in self._reading:
            if event is None:
                break
            events.append(event)
        return events


def plain(source: Incoming) -> Reading:
    """All is for the reader."""
    return source.rest(Shown)
