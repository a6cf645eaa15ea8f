"""From a response's request to the chat completion that answers it. Pure."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from gateway.api.foreign import Places
from gateway.api.responses.items import (
    CallItem,
    CustomCallItem,
    Item,
    MessageItem,
    OutputItem,
    ReasoningItem,
)
from gateway.api.responses.schema import Parsed, ResponseRequest, TextFormat
from gateway.api.responses.tools import ToolBook
from shared.errors import RequestError

PLACES: Final[Places] = (
    (r"messages.*", "input"),
    (r"max_(completion_)?tokens", "max_output_tokens"),
    (r"response_format\.json_schema\.(.+)", r"text.format.\1"),
    (r"response_format.*", "text.format"),
    (r"tools\[(\d+)\]\.function\.(.+)", r"tools[\1].\2"),
    (r"tool_choice.*", "tool_choice"),
    (r"reasoning_effort", "reasoning.effort"),
    (r"logprobs", "include"),
)
"""Where in the request stood what is wrong in its chat body."""


def chat_body(parsed: Parsed, book: ToolBook, earlier: Sequence[Item]) -> dict[str, Any]:
    """The chat completion that goes on after the `earlier` items. Raises RequestError."""
    request = parsed.request
    check_calls(earlier, request.input)
    body = parsed.passed | {
        "model": request.model,
        "messages": list(_messages(request, book, (*earlier, *request.input))),
        "stream": request.stream,
    }
    if request.max_output_tokens is not None:
        body["max_completion_tokens"] = request.max_output_tokens
    if request.text.format is not None:
        body["response_format"] = _response_format(request.text.format)
    if request.reasoning.effort is not None:
        body["reasoning_effort"] = request.reasoning.effort
    if request.wants_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    if book.entries:
        body |= {"tools": book.for_chat(), "parallel_tool_calls": request.parallel_tool_calls}
        body["tool_choice"] = book.choice_for_chat(request.tool_choice)
    elif request.tool_choice not in ("auto", "none"):
        sentence = "'tool_choice' names a tool, and there are none in 'tools'."
        raise RequestError(sentence, param="tool_choice", reason="invalid_value")
    return body


def check_calls(earlier: Sequence[Item], items: Sequence[Item]) -> None:
    """Raises RequestError for the output of a call that nobody made."""
    made = {item.call_id for item in earlier if isinstance(item, CallItem | CustomCallItem)}
    for index, item in enumerate(items):
        if isinstance(item, CallItem | CustomCallItem):
            made.add(item.call_id)
        elif isinstance(item, OutputItem) and item.call_id not in made:
            place = f"input[{index}].call_id"
            sentence = "No tool call found for function call output with this call_id."
            raise RequestError(sentence, param=place, reason="invalid_value")


def _messages(
    request: ResponseRequest, book: ToolBook, items: Iterable[Item]
) -> list[dict[str, Any]]:
    """Whatever the assistant did in a row, thinking first and calling last, is one message."""
    messages: list[dict[str, Any]] = []
    if request.instructions:
        messages.append({"role": "system", "content": request.instructions})
    turn: dict[str, Any] = {}
    for item in items:
        part = _part_of_turn(item, book)
        if turn and (part is None or not _follows(part, turn)):
            messages.append(_whole(turn))
            turn = {}
        if part is None:
            messages.append(_message(item))
        else:
            calls = [*turn.get("tool_calls", ()), *part.get("tool_calls", ())]
            turn |= part | ({"tool_calls": calls} if calls else {})
    return [*messages, _whole(turn)] if turn else messages


def _part_of_turn(item: Item, book: ToolBook) -> dict[str, Any] | None:
    """What an item adds to the assistant's turn; nothing if it is somebody else's."""
    match item:
        case ReasoningItem():
            return {"reasoning_content": str(item)} if str(item) else {}
        case MessageItem(role="assistant"):
            return {"content": "".join(map(str, item.content))}
        case CallItem():
            return {"tool_calls": [_call(item, book, item.arguments)]}
        case CustomCallItem():
            return {"tool_calls": [_call(item, book, json.dumps({"input": item.input}))]}
        case _:
            return None


def _follows(part: dict[str, Any], turn: dict[str, Any]) -> bool:
    """Whether a part may stand in the same message as the turn so far."""
    if "reasoning_content" in part:
        return False
    return "content" not in part or not turn.keys() & {"content", "tool_calls"}


def _whole(turn: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None if "tool_calls" in turn else ""} | turn


def _call(item: CallItem | CustomCallItem, book: ToolBook, arguments: str) -> dict[str, Any]:
    name = book.name_of(item.name, item.namespace)
    return {
        "id": item.call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _message(item: Item) -> dict[str, Any]:
    if isinstance(item, OutputItem):
        content = "".join(map(str, item.output))
        return {"role": "tool", "tool_call_id": item.call_id, "content": content}
    assert isinstance(item, MessageItem)
    return {"role": item.role, "content": "".join(map(str, item.content))}


def _response_format(form: TextFormat) -> dict[str, Any]:
    if form.type != "json_schema":
        return {"type": form.type}
    schema: dict[str, Any] = {"name": form.name, "schema": form.content or {}}
    if form.strict is not None:
        schema["strict"] = form.strict
    return {"type": "json_schema", "json_schema": schema}
