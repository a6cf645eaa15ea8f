"""What the model says as Anthropic's content blocks, and the events that tell of it. Pure."""

import json
from dataclasses import dataclass, field
from typing import Any, Final, cast

from gateway.api.said import CallArguments, CallBegun, Said, Text, Thought

Event = dict[str, Any]

STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}


@dataclass
class _Open:
    block: dict[str, Any]
    index: int
    said: list[str] = field(default_factory=list[str])


class Message:
    """Gathers blocks as they are said."""

    def __init__(self, message_id: str, model: str) -> None:
        self.blocks: list[dict[str, Any]] = []
        self._message_id = message_id
        self._model = model
        self._open: _Open | None = None

    def begin(self, usage: dict[str, Any]) -> Event:
        """The first event, with the usage so far."""
        return {"type": "message_start", "message": self._message(usage_of(usage))}

    def feed(self, said: Said) -> list[Event]:
        """The events of what was said."""
        match said:
            case Text(text=text):
                block = {"type": "text", "text": ""}
                return self._say(block, {"type": "text_delta", "text": text}, text)
            case Thought(text=text):
                block = {"type": "thinking", "thinking": "", "signature": ""}
                return self._say(block, {"type": "thinking_delta", "thinking": text}, text)
            case CallBegun():
                block: dict[str, Any] = {
                    "type": "tool_use",
                    "id": said.call_id,
                    "name": said.name,
                    "input": {},
                }
                return [*self._close(), self._begin(block)]
            case CallArguments(fragment=fragment):
                return [
                    self._delta({"type": "input_json_delta", "partial_json": fragment}, fragment)
                ]

    def end(self, finish_reason: str, usage: dict[str, Any], stop: str | None) -> list[Event]:
        """The last events. `stop` is the stop string that ended it, if one did."""
        delta = _ended(finish_reason, stop)
        closing = self._close()
        final = {"type": "message_delta", "delta": delta, "usage": usage_of(usage)}
        return [*closing, final, {"type": "message_stop"}]

    def whole(self, finish_reason: str, usage: dict[str, Any], stop: str | None) -> dict[str, Any]:
        """The message, once all was said."""
        self._close()
        return self._message(usage_of(usage)) | _ended(finish_reason, stop)

    def _message(self, usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": list(self.blocks),
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def _say(self, block: dict[str, Any], delta: dict[str, Any], text: str) -> list[Event]:
        if not text:
            return []
        if self._open is not None and self._open.block["type"] == block["type"]:
            return [self._delta(delta, text)]
        return [*self._close(), self._begin(block), self._delta(delta, text)]

    def _begin(self, block: dict[str, Any]) -> Event:
        self._open = _Open(block, len(self.blocks))
        self.blocks.append(block)
        begun = dict(block)
        return {"type": "content_block_start", "index": self._open.index, "content_block": begun}

    def _delta(self, delta: dict[str, Any], text: str) -> Event:
        assert self._open is not None, "a block begins before more of it comes"
        self._open.said.append(text)
        return {"type": "content_block_delta", "index": self._open.index, "delta": delta}

    def _close(self) -> list[Event]:
        if self._open is None:
            return []
        block, text = self._open.block, "".join(self._open.said)
        match block["type"]:
            case "tool_use":
                block["input"] = input_of(text)
            case kind:
                block[kind] = text
        closed = {"type": "content_block_stop", "index": self._open.index}
        self._open = None
        return [closed]


def input_of(arguments: str) -> dict[str, Any]:
    """A call's arguments as the object they should be; the fragments of a stream are as they are.

    A call that was cut short, or is no object, has nothing in it.
    """
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], read) if isinstance(read, dict) else {}


def usage_of(usage: dict[str, Any]) -> dict[str, Any]:
    """A chat completion's usage in Anthropic's words, in which what was kept is not input."""
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage["completion_tokens"],
    }


def _ended(finish_reason: str, stop: str | None) -> dict[str, Any]:
    if finish_reason == "stop" and stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": STOP_REASONS[finish_reason], "stop_sequence": None}
