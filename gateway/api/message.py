"""What an answer has said, as the objects of a chat completion. Pure given a vocabulary."""

from collections.abc import Iterable, Sequence
from typing import Any

from gateway.api.logprobs import logprobs_object
from gateway.api.said import CallArguments, CallBegun, Said, Text, Thought
from gateway.vocabulary import Vocabulary


def message_of(said: Iterable[Said]) -> dict[str, Any]:
    """A whole choice's message. Its content is null only where calls stand for it."""
    content: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for one in said:
        match one:
            case Text(text):
                content.append(text)
            case Thought(text):
                thoughts.append(text)
            case CallBegun():
                calls.append(_call(one))
            case CallArguments(index, fragment):
                calls[index]["function"]["arguments"] += fragment
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(content) or (None if calls else ""),
        "refusal": None,
        "annotations": [],
    }
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def delta_of(said: Said) -> dict[str, Any]:
    """The same of a stream, where nothing of a call is told twice: SDKs join strings."""
    match said:
        case Text(text):
            return {"content": text}
        case Thought(text):
            return {"reasoning_content": text}
        case CallBegun(index):
            return {"tool_calls": [{"index": index, **_call(said)}]}
        case CallArguments(index, fragment):
            return {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}


def logprobs_of(said: Sequence[Said], vocabulary: Vocabulary) -> dict[str, Any]:
    """How likely the tokens were that the reader sees; thoughts and calls have none."""
    tokens = (token for one in said if isinstance(one, Text) for token in one.tokens)
    return logprobs_object(tokens, vocabulary)


def _call(begun: CallBegun) -> dict[str, Any]:
    function = {"name": begun.name, "arguments": ""}
    return {"id": begun.call_id, "type": "function", "function": function}
