"""The chat completion that a response's request is translated to."""

from typing import Any

import pytest

from gateway.api.foreign import place_of
from gateway.api.responses.chat_body import PLACES, chat_body
from gateway.api.responses.items import sealed
from gateway.api.responses.schema import parse_response
from gateway.api.responses.tools import ToolBook
from shared.errors import RequestError

FUNCTION = {"type": "function", "name": "look", "description": "Looks.", "strict": True}
CALL = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "a cat"}


def body_of(*items: Any, **changes: Any) -> dict[str, Any]:
    parsed = parse_response({"model": "m", "input": list(items) or "hello"} | changes)
    book, _ = ToolBook.of(parsed.request.tools, parsed.request.tool_choice)
    return chat_body(parsed, book, [])


def messages_of(*items: Any, **changes: Any) -> list[dict[str, Any]]:
    return body_of(*items, **changes)["messages"]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "input_text", "text": text}]}


def test_instructions_come_first_and_developers_keep_their_role():
    told = messages_of({"role": "developer", "content": "b"}, user("c"), instructions="a")
    assert [(m["role"], m["content"]) for m in told] == [
        ("system", "a"),
        ("developer", "b"),
        ("user", "c"),
    ]


def test_what_the_assistant_did_in_a_row_is_one_message():
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "text", "text": "hm"}]}
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    second = CALL | {"call_id": "call_2"}
    told = messages_of(user("go"), thought, said, CALL, second, OUTPUT, user("and?"))
    assert [m["role"] for m in told] == ["user", "assistant", "tool", "user"]
    assistant = told[1]
    assert (assistant["reasoning_content"], assistant["content"]) == ("hm", "I look.")
    assert [call["id"] for call in assistant["tool_calls"]] == ["call_1", "call_2"]
    assert told[2] == {"role": "tool", "tool_call_id": "call_1", "content": "a cat"}


def test_a_call_alone_has_no_content_and_a_second_thought_begins_a_message():
    thought = {"type": "reasoning", "encrypted_content": sealed("hm")}
    first, second = messages_of(CALL, thought, CALL)
    assert (first["content"], second["reasoning_content"]) == (None, "hm")


def test_thoughts_that_others_sealed_say_nothing():
    thought = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    assert messages_of(user("a"), thought) == [{"role": "user", "content": "a"}]


def test_the_output_of_a_call_that_nobody_made_is_refused():
    with pytest.raises(RequestError, match="No tool call found") as caught:
        body_of(OUTPUT)
    assert caught.value.param == "input[0].call_id"


def test_tools_and_choices_take_the_chat_completion_s_shape():
    body = body_of(tools=[FUNCTION], tool_choice={"type": "function", "name": "look"})
    function = {"name": "look", "description": "Looks.", "strict": True}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [FUNCTION]}
    body = body_of(tools=[FUNCTION], tool_choice=allowed)
    assert body["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "look"}}],
        },
    }


def test_a_custom_tool_is_a_function_of_one_string():
    custom = {"type": "custom", "name": "patch", "format": {"type": "grammar", "definition": "g"}}
    call = {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": 'a "b"'}
    body = body_of(user("go"), call, tools=[custom])
    (function,) = body["tools"]
    assert function["function"]["parameters"]["required"] == ["input"]
    assert "g" in function["function"]["description"]
    arguments = body["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == '{"input": "a \\"b\\""}'


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "x"}])
def test_a_tool_that_is_not_there_cannot_be_chosen(choice: Any):
    with pytest.raises(RequestError, match="tool_choice"):
        body_of(tool_choice=choice)
    with pytest.raises(RequestError, match="no tool of that name"):
        body_of(tools=[FUNCTION], tool_choice={"type": "function", "name": "x"})


def test_the_other_parameters_have_their_own_names():
    body = body_of(
        max_output_tokens=5,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        temperature=0.5,
    )
    del body["messages"]
    assert body == {
        "model": "m",
        "stream": False,
        "temperature": 0.5,
        "max_completion_tokens": 5,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {}, "strict": True},
        },
        "logprobs": True,
        "top_logprobs": 2,
    }


@pytest.mark.parametrize(
    ("param", "place"),
    [
        ("messages", "input"),
        ("max_completion_tokens", "max_output_tokens"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("tools[3].function.parameters", "tools[3].parameters"),
        ("temperature", "temperature"),
    ],
)
def test_errors_name_the_place_in_the_request_that_was_sent(param: str, place: str):
    assert place_of(param, PLACES) == place
