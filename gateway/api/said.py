"""What an answer says, piece by piece, before any wire format. Pure."""

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from gateway.generator import Token


class Text(msgspec.Struct, frozen=True):
    """Text for the reader, and of the tokens that came with logprobs those whose text begins in it.

    A token without a text of its own goes with the one after it.
    """

    text: str
    tokens: tuple[Token, ...] = ()


class Thought(msgspec.Struct, frozen=True):
    """The model thinking aloud; `tokens` as in Text."""

    text: str
    tokens: tuple[Token, ...] = ()


class CallBegun(msgspec.Struct, frozen=True):
    """A call of a tool begins. Calls of one answer are numbered from 0 in the order they come."""

    index: int
    call_id: str
    name: str


class CallArguments(msgspec.Struct, frozen=True):
    """More of a call's arguments, a fragment of a JSON object's text."""

    index: int
    fragment: str


Said = Text | Thought | CallBegun | CallArguments


def joined(said: Iterable[Said]) -> list[Said]:
    """The same with neighbours of one kind made one."""
    whole: list[Said] = []
    for one in said:
        match whole[-1] if whole else None, one:
            case Text() as last, Text():
                whole[-1] = Text(last.text + one.text, last.tokens + one.tokens)
            case Thought() as last, Thought():
                whole[-1] = Thought(last.text + one.text, last.tokens + one.tokens)
            case CallArguments(index) as last, CallArguments() if index == one.index:
                whole[-1] = replace(last, fragment=last.fragment + one.fragment)
            case _:
                whole.append(one)
    return whole
