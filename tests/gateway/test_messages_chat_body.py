"""The chat completion that a request of Anthropic's API is translated to."""

from typing import Any

import pytest

from gateway.api.foreign import place_of
from gateway.api.messages.chat_body import PLACES, chat_body
from gateway.api.messages.schema import parse_messages
from shared.errors import RequestError

TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "it"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a cat"}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def body_of(*messages: Any, **changes: Any) -> dict[str, Any]:
    turns = list(messages) or [{"role": "user", "content": "hello"}]
    parsed = parse_messages({"model": "m", "max_tokens": 9, "messages": turns} | changes)
    return chat_body(parsed)


def refusal(*messages: Any, **changes: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        body_of(*messages, **changes)
    return caught.value


def test_the_simplest_request():
    assert body_of() == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 9,
        "temperature": 1.0,
        "stream": False,
    }


def test_the_system_prompt_comes_first_without_the_line_that_is_new_each_time():
    billing = text("x-anthropic-billing-header: cc_version=2.1; cch=abc12;")
    cached = text("Be brief.") | {"cache_control": {"type": "ephemeral"}}
    system, _ = body_of(system=[billing, cached, text("Be kind.")])["messages"]
    assert system == {"role": "system", "content": "Be brief.\nBe kind."}
    assert body_of(system="a")["messages"][0]["content"] == "a"
    assert len(body_of(system=[billing])["messages"]) == 1


def test_a_use_of_a_tool_and_its_result_become_a_call_and_a_message():
    thinking = {"type": "thinking", "thinking": "hm", "signature": "x"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    told = body_of(
        user(text("go")),
        assistant(thinking, redacted, text("I look."), USE),
        user(RESULT, text("and?")),
    )["messages"]
    call = {
        "id": "toolu_1",
        "type": "function",
        "function": {"name": "look", "arguments": '{"at": "it"}'},
    }
    assert told == [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "a cat"},
        {"role": "user", "content": "and?"},
    ]


def test_that_a_tool_failed_is_said_in_words():
    failed = RESULT | {"is_error": True}
    *_, result = body_of(user(text("go")), assistant(USE), user(failed))["messages"]
    assert result["content"] == "Error: a cat"


def test_turns_of_one_side_in_a_row_are_one():
    told = body_of(user(text("a")), user(text("b")), assistant(text("c")), user(text("d")))
    assert [m["content"] for m in told["messages"]] == ["a\nb", "c", "d"]


def test_an_answer_that_was_begun_is_gone_on_with():
    body = body_of(user(text("a")), assistant(text("The")))
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_tools_and_choices_take_the_chat_completion_s_shape(choice: Any, expected: Any):
    body = body_of(tools=[TOOL], tool_choice=choice | {"disable_parallel_tool_use": True})
    function = {"name": "look", "parameters": {"type": "object"}, "description": "Looks."}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (expected, False)


def test_the_other_parameters_have_their_own_names():
    form = {"type": "json_schema", "schema": {"type": "object"}}
    body = body_of(
        stop_sequences=["x"],
        top_k=3,
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"effort": "low", "format": form},
    )
    assert (body["stop"], body["top_k"], body["enable_thinking"]) == (["x"], 3, True)
    assert body["reasoning_effort"] == "low"
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "enable_thinking" not in body_of(thinking={"type": "adaptive"})
    assert body_of(thinking={"type": "disabled"})["enable_thinking"] is False


def test_what_claude_code_sends_beside_is_named_and_does_no_harm():
    parsed = parse_messages(
        {
            "model": "m",
            "max_tokens": 32000,
            "messages": [{"role": "user", "content": [text("hi")]}],
            "metadata": {"user_id": "u"},
            "context_management": {"edits": []},
            "thinking": {"type": "enabled", "budget_tokens": 31999},
            "tools": [TOOL | {"cache_control": {"type": "ephemeral"}, "defer_loading": True}],
        }
    )
    assert parsed.ignored == ("context_management", "thinking.budget_tokens", "metadata")


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"max_tokens": None}, "max_tokens", "Missing"),
        ({"temperature": 1.5}, "temperature", "less than"),
        ({"stop": ["x"]}, "stop", "use 'stop_sequences'"),
        ({"mcp_servers": [{}]}, "mcp_servers", "client"),
        ({"container": "x"}, "container", "no code"),
        ({"tools": [{"type": "web_search_20250305", "name": "s"}]}, "tools[0].type", "not served"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema", "Missing"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "none in 'tools'"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name", ""),
    ],
)
def test_each_mistake_names_its_place(changes: dict[str, Any], param: str, words: str):
    error = refusal(**changes)
    assert error.param == param
    assert words in str(error)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (user({"type": "image", "source": {}}), "messages[0].content[0].type"),
        (user({"type": "server_tool_use"}), "messages[0].content[0].type"),
        (user(RESULT), "messages[0].content[0].tool_use_id"),
        (user(USE), "messages"),
        (assistant(RESULT), "messages"),
        ({"role": "tool", "content": "a"}, "messages[0].role"),
    ],
)
def test_blocks_that_cannot_be_there_are_refused(message: Any, param: str):
    assert refusal(message).param == param


def test_errors_name_the_place_in_the_request_that_was_sent():
    assert place_of("tools[1].function.parameters", PLACES) == "tools[1].input_schema"
    assert place_of("stop[2]", PLACES) == "stop_sequences[2]"
    assert place_of("max_completion_tokens", PLACES) == "max_tokens"
