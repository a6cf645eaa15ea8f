"""Output items, and the events that tell of each step: what the SDKs rebuild from the events is
what stands in the final response."""

from collections.abc import Sequence
from itertools import count
from typing import Any

from gateway.api.responses.items import unsealed
from gateway.api.responses.output import Event, Output
from gateway.api.responses.schema import parse_response
from gateway.api.responses.tools import ToolBook
from gateway.api.said import CallArguments, CallBegun, Said, Text, Thought

TOOLS = [
    {"type": "function", "name": "look"},
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "shop", "tools": [{"type": "function", "name": "buy"}]},
]


def output(**options: Any) -> Output:
    request = parse_response({"model": "m", "input": "a", "tools": TOOLS}).request
    numbers = count(1)
    return Output(
        ToolBook.of(request.tools, "auto")[0],
        new_id=lambda prefix: f"{prefix}{next(numbers)}",
        **options,
    )


def events_of(made: Output, said: Sequence[Said]) -> list[Event]:
    return [event for one in said for event in made.feed(one)] + made.end("completed")


def types_of(events: Sequence[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def rebuilt(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The items as a client gathers them from deltas alone."""
    items: list[dict[str, Any]] = []
    for event in events:
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert event["output_index"] == len(items)
                items.append({**event["item"], "status": "completed"})
            case "content_part.added":
                items[event["output_index"]]["content"] = [dict(event["part"])]
            case "output_text.delta" | "reasoning_text.delta":
                items[event["output_index"]]["content"][0]["text"] += event["delta"]
            case "function_call_arguments.delta":
                items[event["output_index"]]["arguments"] += event["delta"]
            case "custom_tool_call_input.delta":
                items[event["output_index"]]["input"] += event["delta"]
    return items


EVERYTHING = (
    Thought("h"),
    Thought("m"),
    Text("I "),
    Text("look."),
    CallBegun(0, "call_0", "look"),
    CallArguments(0, '{"a"'),
    CallArguments(0, ": 1}"),
    CallBegun(1, "call_1", "patch"),
    CallArguments(1, '{"input": "x\\ny"}'),
    CallBegun(2, "call_2", "buy"),
    CallArguments(2, "{}"),
)


def test_text_is_told_in_the_order_that_sdks_expect():
    events = events_of(output(), [Text("a"), Text("b")])
    assert types_of(events) == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert events[0]["item"]["content"] == []
    assert events[4]["text"] == "ab"


def test_what_the_deltas_add_up_to_is_what_is_done_and_what_stands_at_the_end():
    made = output()
    events = events_of(made, EVERYTHING)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert rebuilt(events) == done == made.items
    assert [item["type"] for item in made.items] == [
        "reasoning",
        "message",
        "function_call",
        "custom_tool_call",
        "function_call",
    ]
    assert made.items[2]["arguments"] == '{"a": 1}'
    assert made.items[3]["input"] == "x\ny"
    assert (made.items[4]["namespace"], made.items[4]["name"]) == ("shop", "buy")


def test_every_event_names_its_item():
    made = output()
    for event in events_of(made, EVERYTHING):
        item = made.items[event["output_index"]]
        assert event.get("item_id", item["id"]) == item["id"]


def test_thoughts_are_sealed_only_for_those_who_ask():
    assert events_of(made := output(), [Thought("hm")])
    assert made.items[0]["encrypted_content"] is None
    events_of(made := output(seals=True), [Thought("hm")])
    assert unsealed(made.items[0]["encrypted_content"]) == "hm"
    assert unsealed("bb1.%%%") == unsealed("gAAAA") == ""


def test_an_answer_without_a_word_is_an_empty_message():
    events_of(made := output(), [])
    assert made.items[0]["content"][0]["text"] == ""


def test_what_is_cut_short_is_incomplete_and_what_came_before_is_not():
    made = output()
    for one in (Text("a"), CallBegun(0, "call_0", "look"), CallArguments(0, "{")):
        made.feed(one)
    made.end("incomplete")
    assert [item["status"] for item in made.items] == ["completed", "incomplete"]
    assert made.items[1]["arguments"] == "{"


def test_a_custom_tool_called_in_another_shape_gets_what_was_written():
    made = output()
    events_of(made, [CallBegun(0, "c", "patch"), CallArguments(0, "[1")])
    assert made.items[0]["input"] == "[1"
