"""Forced calls and several choices of the bundled model in a real swarm, by the official SDK."""

import json
from typing import Any

import pytest

from tests.swarm.conftest import Swarm, Up

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "carry",
            "parameters": {
                "type": "object",
                "properties": {
                    "what": {"enum": ["water", "sand"]},
                    "buckets": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["what", "buckets"],
                "additionalProperties": False,
            },
        },
    }
]
NAMED: Any = {"type": "function", "function": {"name": "carry"}}
ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Please carry water to the fire. " * 20}],
    "seed": 3,
    "max_tokens": 120,
}


@pytest.fixture(scope="module")
def bundled(up: Up) -> Swarm:
    """The model that comes with the package, on its workers."""
    return up()


def test_a_forced_call_is_whole_and_streams_the_same(bundled: Swarm):
    sdk = bundled.client()
    request = {**ASK, "model": sdk.models.list().data[0].id, "tools": TOOLS, "tool_choice": NAMED}
    choice = sdk.chat.completions.create(**request).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    assert (arguments["what"] in ("water", "sand"), 1 <= arguments["buckets"] <= 9) == (True, True)
    with sdk.chat.completions.stream(**request) as stream:
        streamed = stream.get_final_completion().choices[0].message
    (again,) = streamed.tool_calls or []
    assert again.function.arguments == call.function.arguments


def test_choices_find_the_pages_of_the_prompt_that_was_read_once(bundled: Swarm):
    sdk = bundled.client()
    request = {**ASK, "model": sdk.models.list().data[0].id, "max_tokens": 8, "temperature": 1}
    request["messages"] = [{"role": "user", "content": "A bucket, a rope and a ladder. " * 20}]
    several = sdk.chat.completions.create(**request, n=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.usage is not None
    assert several.usage.prompt_tokens_details is not None
    cached = several.usage.prompt_tokens_details.cached_tokens or 0
    assert several.usage.prompt_tokens - cached <= 64
    alone = sdk.chat.completions.create(**request)
    assert several.choices[0].message.content == alone.choices[0].message.content
