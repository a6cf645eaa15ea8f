"""The items that the input of a response is made of. Pure.

What an earlier answer's output items say is sent back in the same shapes.
"""

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from gateway.api.kinds import one_of
from gateway.api.written import Written

NO_IMAGES: Final = "Invalid content type. {kind} is only supported by certain models."
NO_BUILT_IN: Final = "Items of type '{kind}' belong to a built-in tool, and none is served here."
SEAL: Final = "bb1."
"""What our reasoning looks like that travels by way of a client. It is opaque, not secret."""


class TextPart(Written):
    """A piece of text."""

    type: str
    text: str

    def __str__(self) -> str:
        return self.text


class RefusalPart(Written):
    """What a model said instead of an answer."""

    type: str
    refusal: str

    def __str__(self) -> str:
        return self.refusal


def _as_parts(value: Any) -> Any:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


Part = Annotated[
    TextPart | RefusalPart,
    one_of(
        {"input_text": TextPart, "output_text": TextPart, "text": TextPart, "refusal": RefusalPart},
        refused=dict.fromkeys(("input_image", "input_file", "input_audio"), NO_IMAGES),
    ),
]
Parts = Annotated[list[Part], Field(fail_fast=True), BeforeValidator(_as_parts)]
Thinking = Annotated[
    TextPart, one_of({"summary_text": TextPart, "reasoning_text": TextPart, "text": TextPart})
]


class MessageItem(Written):
    """What somebody said."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts


class CallItem(Written):
    """A function that the model called."""

    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: str | None = None
    arguments: str


class CustomCallItem(Written):
    """A custom tool that the model called."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    namespace: str | None = None
    input: str


class OutputItem(Written):
    """What came of a call."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str
    output: Parts


class ReasoningItem(Written):
    """What the model thought, in the clear or as it was sealed for the client to keep."""

    type: Literal["reasoning"]
    summary: Annotated[list[Thinking], Field(fail_fast=True)] = Field([])
    content: Annotated[list[Thinking], Field(fail_fast=True)] | None = None
    encrypted_content: str | None = None

    def __str__(self) -> str:
        if self.content:
            return "".join(map(str, self.content))
        return unsealed(self.encrypted_content or "") or "".join(map(str, self.summary))


Item = MessageItem | CallItem | CustomCallItem | OutputItem | ReasoningItem

InputItem = Annotated[
    Item,
    one_of(
        {
            "message": MessageItem,
            "function_call": CallItem,
            "function_call_output": OutputItem,
            "custom_tool_call": CustomCallItem,
            "custom_tool_call_output": OutputItem,
            "reasoning": ReasoningItem,
        },
        default="message",
        refused={
            "item_reference": "References to items are not supported here: send the item itself, "
            "or 'previous_response_id'.",
        },
        others=NO_BUILT_IN,
    ),
]


def as_input(value: Any) -> Any:
    """A plain text is one message of the user."""
    return [{"type": "message", "role": "user", "content": value}] if type(value) is str else value


def as_items(value: Any, ids: Iterable[str]) -> list[dict[str, Any]]:
    """A valid input as it is listed later: every item with a type and an id."""
    return [_listed(item, item_id) for item, item_id in zip(as_input(value), ids, strict=False)]


def _listed(item: dict[str, Any], item_id: str) -> dict[str, Any]:
    listed = {"type": "message", "id": item_id} | {
        name: value for name, value in item.items() if value is not None
    }
    return listed | ({"content": _as_parts(item["content"])} if "content" in listed else {})


def sealed(thought: str) -> str:
    """A thought as a client keeps it for us."""
    return SEAL + base64.urlsafe_b64encode(thought.encode()).decode()


def unsealed(seal: str) -> str:
    """The thought in a seal of ours; nothing in another's."""
    if not seal.startswith(SEAL):
        return ""
    try:
        return base64.urlsafe_b64decode(seal.removeprefix(SEAL)).decode()
    except (binascii.Error, ValueError):
        return ""
