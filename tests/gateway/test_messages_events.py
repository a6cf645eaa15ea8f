"""Anthropic's events: what the SDKs rebuild from them is the whole message."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.api.errors import Failure, error_body
from gateway.api.messages.errors import as_anthropic
from gateway.api.messages.events import Event, Message
from gateway.api.said import CallArguments, CallBegun, Said, Text, Thought

USAGE: dict[str, Any] = {
    "prompt_tokens": 10,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 4},
}
TOLD_USAGE = {
    "input_tokens": 6,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
    "output_tokens": 3,
}
EVERYTHING = (
    Thought("h"),
    Thought("m"),
    Text("I "),
    Text("look."),
    CallBegun(0, "call_0", "look"),
    CallArguments(0, '{"a"'),
    CallArguments(0, ": 1}"),
    CallBegun(1, "call_1", "go"),
)


def events_of(said: Sequence[Said], reason: str = "stop", stop: str | None = None) -> list[Event]:
    message = Message("msg_1", "m")
    begun = [message.begin(USAGE)]
    told = [event for one in said for event in message.feed(one)]
    return begun + told + message.end(reason, USAGE, stop)


def whole(said: Sequence[Said], reason: str = "stop", stop: str | None = None) -> dict[str, Any]:
    message = Message("msg_1", "m")
    for one in said:
        message.feed(one)
    return message.whole(reason, USAGE, stop)


def rebuilt(events: Sequence[Event]) -> dict[str, Any]:
    """The message as a client gathers it."""
    message: dict[str, Any] = {}
    open_index, written = None, ""
    for event in events:
        match event["type"]:
            case "message_start":
                message = json.loads(json.dumps(event["message"]))
            case "content_block_start":
                assert (open_index, event["index"]) == (None, len(message["content"]))
                open_index, written = event["index"], ""
                message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                assert event["index"] == open_index
                delta, block = event["delta"], message["content"][-1]
                if delta["type"] == "input_json_delta":
                    written += delta["partial_json"]
                else:
                    name = delta["type"].removesuffix("_delta")
                    block[name] += delta[name]
            case "content_block_stop":
                if message["content"][-1]["type"] == "tool_use" and written:
                    message["content"][-1]["input"] = json.loads(written)
                open_index = None
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    assert events[-1] == {"type": "message_stop"}
    return message


def test_a_stream_adds_up_to_the_whole_message():
    made = whole(EVERYTHING, "tool_calls")
    assert rebuilt(events_of(EVERYTHING, "tool_calls")) == made
    assert made["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call_0", "name": "look", "input": {"a": 1}},
        {"type": "tool_use", "id": "call_1", "name": "go", "input": {}},
    ]
    assert (made["stop_reason"], made["usage"]) == ("tool_use", TOLD_USAGE)


@pytest.mark.parametrize(
    ("reason", "stop", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "###", ("stop_sequence", "###")),
        ("length", None, ("max_tokens", None)),
    ],
)
def test_why_it_ended(reason: str, stop: str | None, expected: tuple[str, str | None]):
    made = whole([Text("a")], reason, stop)
    assert (made["stop_reason"], made["stop_sequence"]) == expected
    assert rebuilt(events_of([Text("a")], reason, stop)) == made


@pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", "no JSON", "[" * 100_000])
def test_arguments_that_are_no_object_are_an_empty_one(arguments: str):
    made = whole([CallBegun(0, "c", "f"), CallArguments(0, arguments)], "length")
    assert made["content"][0]["input"] == {}


def test_an_answer_without_a_word_has_no_blocks():
    assert whole([])["content"] == []
    assert rebuilt(events_of([])) == whole([])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_errors_have_anthropic_s_envelope_and_types(status: int, kind: str):
    failure = Failure(status, error_body("what", "x", "p", "c"), {"retry-after": "3"})
    told = as_anthropic(failure, "req_1")
    assert (told.status, told.headers) == (status, {"retry-after": "3"})
    assert told.body == {
        "type": "error",
        "error": {"type": kind, "message": "what"},
        "request_id": "req_1",
    }


def test_a_prompt_that_is_too_long_is_told_in_the_words_agents_know():
    sentence = (
        "This model's maximum context length is 128 tokens. However, your messages resulted in "
        "200 tokens. Please reduce the length of the messages."
    )
    failure = Failure(400, error_body(sentence, "x", "messages", "context_length_exceeded"))
    message = as_anthropic(failure, "req_1").body["error"]["message"]
    assert message == "prompt is too long: 200 tokens > 128 maximum"
