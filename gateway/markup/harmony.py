"""The channels gpt-oss answers in: `<|channel|>analysis<|message|>...<|end|>`. Pure.

https://cookbook.openai.com/articles/openai-harmony
"""

import re
from collections.abc import Generator
from typing import Final

from gateway.markup.calls import Accepts
from gateway.markup.incoming import (
    Arguments,
    Begun,
    Done,
    Event,
    Incoming,
    Reading,
    Shown,
    Thinking,
)
from gateway.markup.json_object import object_of

MESSAGE: Final = "<|message|>"
BEGINNINGS: Final = ("<|start|>", "<|channel|>", MESSAGE)
ENDS: Final = ("<|end|>", "<|call|>", "<|return|>")
MARKERS: Final = (*BEGINNINGS, *ENDS, "<|constrain|>")

MAX_HEAD_CHARACTERS: Final = 512
CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")
RECIPIENT: Final = re.compile(r"to=functions\.([\w.-]{1,64})")


def harmony(source: Incoming, accepts: Accepts) -> Reading:
    """Messages in channels: thoughts, calls, and what is for the reader."""
    while True:
        for end in ENDS:
            yield from source.accept(end)
        if source.is_ended and not source.text:
            return
        head = yield from _head(source)
        name = RECIPIENT.search(head)
        channel = CHANNEL.search(head)
        if name and accepts(name[1]):
            yield Begun(name[1])
            yield from _arguments(source)
        elif channel and channel[1] == "analysis":
            source.is_thinking = True
            yield from source.until((*ENDS, *BEGINNINGS), Thinking)
            source.is_thinking = False
        else:
            yield from source.until((*ENDS, *BEGINNINGS), Shown)


def _head(source: Incoming) -> Generator[Event | None, None, str]:
    """What stands before a message; nothing where text comes without."""
    while True:
        text = source.text.lstrip()
        at = text.find(MESSAGE)
        is_one = text.startswith(BEGINNINGS)
        may_be = is_one or any(begin.startswith(text) for begin in BEGINNINGS)
        if is_one and 0 <= at <= MAX_HEAD_CHARACTERS:
            source.skip(len(source.text) - len(text) + at + len(MESSAGE))
            return text[:at]
        if may_be and source.is_ended:
            source.skip(len(source.text))  # cut off before it said anything
            return ""
        if not may_be or len(text) > MAX_HEAD_CHARACTERS:
            source.skip(_marker_size(text))
            return ""
        yield None


def _marker_size(text: str) -> int:
    return next((len(marker) for marker in BEGINNINGS if text.startswith(marker)), 0)


def _arguments(source: Incoming) -> Reading:
    told = ""
    for event in source.until((*ENDS, *BEGINNINGS), Shown):
        if isinstance(event, Shown):
            told += event.text
            yield Arguments(event.text)
        else:
            yield event
    yield Done(object_of(told) is not None)
