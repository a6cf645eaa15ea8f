"""What /v1/responses accepts, and the one error each mistake makes."""

from typing import Any

import pytest

from gateway.api.responses.schema import Parsed, parse_response
from gateway.api.responses.tools import ToolBook
from shared.errors import RequestError

FUNCTION = {"type": "function", "name": "look", "parameters": {"type": "object"}}


def parsed(**changes: Any) -> Parsed:
    return parse_response({"model": "m", "input": "hello"} | changes)


def book_of(**changes: Any) -> tuple[ToolBook, list[str]]:
    request = parsed(**changes).request
    return ToolBook.of(request.tools, request.tool_choice)


def refusal(**changes: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        book_of(**changes)
    return caught.value


def test_a_plain_text_is_a_message_of_the_user():
    (item,) = parsed().request.input
    assert (item.type, item.role, str(item.content[0])) == ("message", "user", "hello")


def test_what_shapes_tokens_passes_and_what_has_no_effect_is_named():
    result = parsed(temperature=0, top_k=3, user="ann", text={"verbosity": "low"}, made_up=1)
    assert result.passed == {"temperature": 0, "top_k": 3, "user": "ann"}
    assert result.ignored == ("made_up", "text.verbosity")


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"input": None}, "input", "Missing"),
        ({"input": []}, "input", "at least 1"),
        ({"input": [1]}, "input[0]", "object"),
        ({"input": [{"role": "x", "content": "a"}]}, "input[0].role", "'user'"),
        ({"input": [{"role": "user", "content": [{"text": "a"}]}]}, "input[0].content[0].type", ""),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
            "input_image is only supported by certain models",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "send the item"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type", "built-in"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "Missing"),
        ({"background": True}, "background", "background"),
        ({"truncation": "auto"}, "truncation", "'disabled'"),
        ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "instructions"),
        ({"messages": []}, "messages", "use 'input'"),
        ({"max_tokens": 3}, "max_tokens", "use 'max_output_tokens'"),
        ({"mirostat": 2}, "mirostat", "not supported"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater"),
        ({"include": ["x"]}, "include[0]", ""),
        ({"metadata": {"k" * 65: "v"}}, "metadata", ""),
        ({"stream_options": {}}, "stream_options", "stream"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "Missing"),
        ({"tools": [{"type": "mcp"}]}, "tools[0].type", "'mcp' is not served"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search' is not served"),
        (
            {"tools": [FUNCTION, {"type": "web_search"}], "tool_choice": "required"},
            "tools[1].type",
            "not served",
        ),
        ({"tools": [FUNCTION, FUNCTION]}, "tools[1].name", "already"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "pattern"),
        ({"tools": [FUNCTION] * 129}, "tools", "128"),
        ({"tool_choice": "maybe"}, "tool_choice", "'required'"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice.type", "not served"),
    ],
)
def test_each_mistake_names_its_place(changes: dict[str, Any], param: str, words: str):
    error = refusal(**changes)
    assert error.param is not None
    assert error.param.startswith(param)
    assert words in str(error)


def test_a_built_in_tool_beside_functions_may_go_uncalled_and_is_named():
    book, absent = book_of(tools=[FUNCTION, {"type": "web_search"}])
    assert (list(book.entries), absent) == (["look"], ["tools[1]"])


def test_functions_of_namespaces_go_by_both_names_where_one_would_be_taken_twice():
    space = {"type": "namespace", "name": "shop", "tools": [FUNCTION, FUNCTION | {"name": "buy"}]}
    book, _ = book_of(tools=[FUNCTION, space])
    assert list(book.entries) == ["look", "shop__look", "buy"]
    assert book.name_of("look", "shop") == "shop__look"
    assert book.name_of("gone", None) == "gone"


def test_what_codex_sends_is_taken_and_what_of_it_has_no_effect_is_named():
    agents = {"type": "namespace", "name": "multi_agent", "description": "", "tools": [FUNCTION]}
    result = parsed(
        stream=True,
        store=False,
        input=[{"type": "message", "role": "developer", "content": "a", "id": "msg_1"}],
        tools=[FUNCTION | {"strict": False}, agents, {"type": "web_search", "filters": None}],
        tool_choice="auto",
        parallel_tool_calls=True,
        reasoning={"summary": "auto"},
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        client_metadata={"originator": "codex"},
    )
    book, absent = ToolBook.of(result.request.tools, result.request.tool_choice)
    assert list(book.entries) == ["look", "multi_agent__look"]
    assert (*result.ignored, *absent) == ("client_metadata", "reasoning.summary", "tools[2]")
    assert result.passed == {"prompt_cache_key": "k"}
