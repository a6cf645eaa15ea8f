"""What the model says as a response's output items, and the events that tell of each step. Pure.

One item for each stretch of thought, of text, and for each call, in the order they were said.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gateway.api.responses.items import sealed
from gateway.api.responses.tools import ToolBook, text_of
from gateway.api.said import CallArguments, CallBegun, Said, Text, Thought
from gateway.generator import Token

Event = dict[str, Any]
ItemStatus = Literal["completed", "incomplete"]
Logprobs = Callable[[Sequence[Token]], list[dict[str, Any]]]

PREFIXES: Final = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "custom_tool_call": "ctc_",
}


@dataclass
class _Open:
    """The item that is being said."""

    item: dict[str, Any]
    place: int
    said: list[str] = field(default_factory=list[str])
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    call: int | None = None

    @property
    def text(self) -> str:
        return "".join(self.said)


class Output:
    """Gathers items as they are said."""

    def __init__(
        self,
        book: ToolBook,
        *,
        new_id: Callable[[str], str],
        logprobs: Logprobs | None = None,
        seals: bool = False,
    ) -> None:
        """`new_id` makes an id behind a prefix; `seals` thoughts for the client to bring back."""
        self.items: list[dict[str, Any]] = []
        self._book = book
        self._new_id = new_id
        self._logprobs = logprobs
        self._seals = seals
        self._open: _Open | None = None

    def feed(self, said: Said) -> list[Event]:
        """The events of what was said."""
        match said:
            case Text():
                events = self._ready_for("message")
                return [*events, self._text(said)] if said.text or said.tokens else events
            case Thought():
                events = self._ready_for("reasoning")
                return [*events, self._thought(said)] if said.text else events
            case CallBegun():
                return [*self._close("completed"), *self._begin_call(said)]
            case CallArguments():
                return self._arguments(said)

    def end(self, status: ItemStatus) -> list[Event]:
        """The last events. An answer without a word is an empty message."""
        begun = [] if self.items or status == "incomplete" else self._ready_for("message")
        return [*begun, *self._close(status)]

    def _ready_for(self, kind: Literal["message", "reasoning"]) -> list[Event]:
        if self._open is not None and self._open.item["type"] == kind:
            return []
        closing = self._close("completed")
        item: dict[str, Any] = {"type": kind, "content": []}
        if kind == "message":
            item["role"] = "assistant"
        else:
            item |= {"summary": [], "encrypted_content": None}
        opened = self._begin(item)
        part = self._part(self._current, "")
        return [*closing, opened, self._tell("response.content_part.added", 0, part=part)]

    def _begin(self, item: dict[str, Any], call: int | None = None) -> Event:
        item = {"id": self._new_id(PREFIXES[item["type"]]), **item, "status": "in_progress"}
        self._open = _Open(item, len(self.items), call=call)
        self.items.append(item)
        return self._tell_item("response.output_item.added")

    @property
    def _current(self) -> _Open:
        assert self._open is not None
        return self._open

    def _text(self, said: Text) -> Event:
        logprobs = self._logprobs(said.tokens) if self._logprobs else []
        self._current.said.append(said.text)
        self._current.logprobs += logprobs
        kind = "response.output_text.delta"
        return self._tell(kind, 0, delta=said.text, logprobs=logprobs)

    def _thought(self, said: Thought) -> Event:
        self._current.said.append(said.text)
        return self._tell("response.reasoning_text.delta", 0, delta=said.text)

    def _begin_call(self, said: CallBegun) -> list[Event]:
        entry = self._book.entries.get(said.name)
        is_custom = entry is not None and entry.is_custom
        item: dict[str, Any] = {
            "type": "custom_tool_call" if is_custom else "function_call",
            "call_id": said.call_id,
            "name": entry.tool.name if entry else said.name,
            "input" if is_custom else "arguments": "",
        }
        if entry is not None and entry.namespace is not None:
            item["namespace"] = entry.namespace
        return [self._begin(item, said.index)]

    def _arguments(self, said: CallArguments) -> list[Event]:
        """A custom tool's input is told whole at its end: it stands inside JSON until then."""
        assert self._current.call == said.index, "a call's arguments come before the next call"
        self._current.said.append(said.fragment)
        if self._current.item["type"] == "custom_tool_call":
            return []
        return [self._tell("response.function_call_arguments.delta", delta=said.fragment)]

    def _close(self, status: ItemStatus) -> list[Event]:
        if self._open is None:
            return []
        self._current.item["status"] = status
        match self._current.item["type"]:
            case "message":
                events = self._end_text()
            case "reasoning":
                events = self._end_thought()
            case "function_call":
                events = self._end_call()
            case _:
                events = self._end_custom_call()
        done = self._tell_item("response.output_item.done")
        self._open = None
        return [*events, done]

    def _end_text(self) -> list[Event]:
        text, logprobs = self._current.text, self._current.logprobs
        return [
            self._tell("response.output_text.done", 0, text=text, logprobs=logprobs),
            self._end_part(text),
        ]

    def _end_thought(self) -> list[Event]:
        text = self._current.text
        if self._seals:
            self._current.item["encrypted_content"] = sealed(text)
        return [self._tell("response.reasoning_text.done", 0, text=text), self._end_part(text)]

    def _end_part(self, text: str) -> Event:
        part = self._part(self._current, text)
        self._current.item["content"] = [part]
        return self._tell("response.content_part.done", 0, part=part)

    def _end_call(self) -> list[Event]:
        self._current.item["arguments"] = arguments = self._current.text
        kind, name = "response.function_call_arguments.done", self._current.item["name"]
        return [self._tell(kind, name=name, arguments=arguments)]

    def _end_custom_call(self) -> list[Event]:
        self._current.item["input"] = text = text_of(self._current.text)
        return [
            self._tell("response.custom_tool_call_input.delta", delta=text),
            self._tell("response.custom_tool_call_input.done", input=text),
        ]

    def _part(self, opened: _Open, text: str) -> dict[str, Any]:
        if opened.item["type"] == "reasoning":
            return {"type": "reasoning_text", "text": text}
        logprobs = opened.logprobs
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _tell(self, kind: str, content_index: int | None = None, **told: Any) -> Event:
        event = {"item_id": self._current.item["id"], "output_index": self._current.place}
        where = {} if content_index is None else {"content_index": content_index}
        return {"type": kind, **event, **where, **told}

    def _tell_item(self, kind: str) -> Event:
        item = dict(self._current.item)
        return {"type": kind, "output_index": self._current.place, "item": item}
