"""How models write calls of tools, one reading for each way. Pure.

What cannot be read as a call is text, whatever markers stand around it. A call whose arguments
have begun stays one, though they may turn out to be no JSON: they are told as they come.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final, cast

from gateway.markup.incoming import Arguments, Asking, Begun, Done, Incoming, Reading, Shown
from gateway.markup.json_object import ObjectScan, object_of

Accepts = Callable[[str], bool]
"""Whether a tool of that name may be called."""

HEAD_CHARACTERS: Final = 512
"""Within so many the arguments of a call have to begin, so that no more is held back."""

HEAD: Final = re.compile(
    r'\s*\{\s*(?:"(?:type|id)"\s*:\s*"[^"<]*"\s*,\s*)*"name"\s*:\s*"(?P<name>[\w.-]{1,64})"\s*,\s*'
    r'"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
TAIL: Final = re.compile(r'\s*(?:,\s*"[^"]*"\s*:\s*(?:"[^"]*"|[\w.+-]+)\s*)*\}')
NAMED: Final = re.compile(
    r"\s*(?P<name>[\w.-]{1,64})\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*(?=\{)"
)


def tagged(source: Incoming, accepts: Accepts) -> Reading:
    """`<tool_call>{"name": "f", "arguments": {}}</tool_call>`, as Hermes, Qwen and others do."""
    yield from _marked(source, "<tool_call>", lambda at: _tagged_call(source, at, accepts))


def mistral(source: Incoming, accepts: Accepts) -> Reading:
    """`[TOOL_CALLS][{"name": "f", "arguments": {}}]`, or `[TOOL_CALLS]f[ARGS]{}` since v11."""
    yield from _marked(source, "[TOOL_CALLS]", lambda at: _mistral_calls(source, at, accepts))


def llama(source: Incoming, accepts: Accepts) -> Reading:
    """`{"name": "f", "parameters": {}}` and nothing before it but `<|python_tag|>`; Llama 3."""
    yield from source.accept("<|python_tag|>")
    while (yield from _object_call(source, 0, accepts)):
        yield from source.skip_space(also=";")
    yield from source.rest(Shown)


def listed(source: Incoming, accepts: Accepts) -> Reading:
    """A call, or a JSON list of them, and nothing else: what shared grammars make models write."""
    yield from source.accept("[")
    while (yield from _object_call(source, 0, accepts)):
        yield from source.skip_space(also=",")
    if not (yield from source.accept("]")):
        yield from source.rest(Shown)


def listed_or_text(source: Incoming, accepts: Accepts, beginnings: tuple[str, ...]) -> Reading:
    """The same where the text begins like one of those; else all of it is for the reader."""
    while not source.text.startswith(beginnings):
        may_be = any(beginning.startswith(source.text) for beginning in beginnings)
        if source.is_ended or not may_be:
            yield from source.rest(Shown)
            return
        yield None
    yield from listed(source, accepts)


def _marked(source: Incoming, marker: str, calls: Callable[[int], Asking]) -> Reading:
    """Text, and calls that a marker announces. `calls` reads them from a place on."""
    while True:
        yield from source.until((marker,), Shown)
        if not source.text:
            return
        at = source.text.index(marker) + len(marker)
        if (yield from calls(at)):
            yield from source.skip_space()
        else:
            yield source.take(at, Shown)


def _tagged_call(source: Incoming, at: int, accepts: Accepts) -> Asking:
    closer = "</tool_call>"
    if not (yield from _object_call(source, at, accepts, closer)):
        return False
    yield from source.accept(closer)
    return True


def _mistral_calls(source: Incoming, at: int, accepts: Accepts) -> Asking:
    while not source.text[at:].strip() and not source.is_ended:
        yield None
    bracket = re.compile(r"\s*\[").match(source.text, at)
    if bracket is None:
        return (yield from _named_call(source, at, accepts))
    if not (yield from _object_call(source, bracket.end(), accepts)):
        return False
    yield from source.skip_space(also=",")
    while (yield from _object_call(source, 0, accepts)):
        yield from source.skip_space(also=",")
    yield from source.accept("]")
    return True


def _named_call(source: Incoming, at: int, accepts: Accepts) -> Asking:
    while True:
        head = NAMED.match(source.text, at, at + HEAD_CHARACTERS)
        if head is not None:
            return (yield from _begun(source, head, accepts))
        if source.is_ended or len(source.text) - at >= HEAD_CHARACTERS:
            return False
        yield None


def _object_call(source: Incoming, at: int, accepts: Accepts, closer: str = "") -> Asking:
    """A call as one object. With a `closer` its keys may come in any order."""
    while True:
        head = HEAD.match(source.text, at, at + HEAD_CHARACTERS)
        if head is not None:
            if not (yield from _begun(source, head, accepts)):
                return False
            yield from _tail(source)
            return True
        end = source.text.find(closer, at) if closer else -1
        if closer and (end >= 0 or source.is_ended):
            return (yield from _whole_call(source, at, end, accepts))
        text = source.text[at : at + HEAD_CHARACTERS]
        is_none = text.strip() and not text.lstrip().startswith("{")
        is_too_long = not closer and len(text) == HEAD_CHARACTERS
        if source.is_ended or is_too_long or (is_none and not closer):
            return False
        yield None


def _begun(source: Incoming, head: re.Match[str], accepts: Accepts) -> Asking:
    if not accepts(head["name"]):
        return False
    source.skip(head.end())
    yield Begun(head["name"])
    scan, told = ObjectScan(), ""
    while True:
        size = scan.feed(source.text)
        if fragment := source.text[:size]:
            told += fragment
            source.skip(size)
            yield Arguments(fragment)
        if scan.is_over or source.is_ended:
            yield Done(scan.is_over and object_of(told) is not None)
            return True
        yield None


def _tail(source: Incoming) -> Reading:
    """What an object has behind the arguments."""
    while True:
        tail = TAIL.match(source.text, 0, HEAD_CHARACTERS)
        if tail is not None:
            source.skip(tail.end())
            return
        text = source.text.lstrip()
        is_other = bool(text) and text[0] not in ",}"
        if source.is_ended or is_other or len(source.text) >= HEAD_CHARACTERS:
            return
        yield None


def _whole_call(source: Incoming, at: int, end: int, accepts: Accepts) -> Asking:
    """A call with its keys in an order of its own; it ends at `end`, or with the text."""
    end = len(source.text) if end < 0 else end
    call = object_of(source.text[at:end]) or {}
    name, arguments = call.get("name"), _arguments(call)
    if not isinstance(name, str) or not accepts(name) or arguments is None:
        return False
    source.skip(end)
    yield Begun(name)
    yield Arguments(json.dumps(arguments, ensure_ascii=False))
    yield Done(True)
    return True


def _arguments(call: dict[str, Any]) -> dict[str, Any] | None:
    given = call.get("arguments", call.get("parameters", {}))
    if isinstance(given, str):
        return object_of(given)
    return cast(dict[str, Any], given) if isinstance(given, dict) else None
