"""From Anthropic's request to the chat completion that answers it. Pure."""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from gateway.api.foreign import Places
from gateway.api.messages.blocks import (
    CallBlock,
    ResultBlock,
    TextBlock,
    ThinkingBlock,
    joined,
)
from gateway.api.messages.schema import MessagesRequest, Parsed, Tool, ToolChoice, Turn
from shared.errors import RequestError

PLACES: Final[Places] = (
    (r"max_(completion_)?tokens", "max_tokens"),
    (r"messages.*", "messages"),
    (r"stop(\[\d+\])?", r"stop_sequences\1"),
    (r"response_format.*", "output_config.format.schema"),
    (r"tools\[(\d+)\]\.function\.parameters(.*)", r"tools[\1].input_schema\2"),
    (r"tools\[(\d+)\]\.function\.(.+)", r"tools[\1].\2"),
    (r"tool_choice.*", "tool_choice"),
    (r"reasoning_effort", "output_config.effort"),
    (r"enable_thinking", "thinking"),
)
"""Where in the request stood what is wrong in its chat body."""

BILLING: Final = "x-anthropic-billing-header:"
"""Claude Code's first line, of which a part is new in each request: with it no prompt would begin
as the one before, and none of the work on that could be used again. It tells the model nothing."""

CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def chat_body(parsed: Parsed) -> dict[str, Any]:
    """The chat completion that a request asks for. Raises RequestError."""
    request = parsed.request
    body = parsed.passed | {
        "model": request.model,
        "messages": [*_system(request.system), *_messages(request.messages)],
        "max_completion_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stream": request.stream,
    }
    if request.stop_sequences:
        body["stop"] = list(request.stop_sequences)
    if request.messages[-1].role == "assistant":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body | _tools(request) | _format(request) | _thinking(request)


def _system(blocks: Sequence[TextBlock]) -> list[dict[str, Any]]:
    told = [block for block in blocks if not block.text.startswith(BILLING)]
    return [{"role": "system", "content": joined(told)}] if told else []


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns of one side in a row are one, as Anthropic has it."""
    messages: list[dict[str, Any]] = []
    made: set[str] = set()
    numbered = enumerate(turns)
    for role, group in groupby(numbered, key=lambda pair: pair[1].role):
        if role == "assistant":
            message = _assistant([block for _, turn in group for block in turn.content])
            made |= {call["id"] for call in message.get("tool_calls", ())}
            messages.append(message)
            continue
        for index, turn in group:
            _check_results(index, turn, made)
            messages += _told(role, turn, messages)
    return messages


def _told(role: str, turn: Turn, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of tools are messages of their own; the text around them is the user's."""
    messages: list[dict[str, Any]] = []
    for kind, group in groupby(turn.content, key=type):
        blocks = list(group)
        if kind is ResultBlock:
            messages += [_result(block) for block in blocks if isinstance(block, ResultBlock)]
        elif kind is TextBlock:
            text = joined([block for block in blocks if isinstance(block, TextBlock)])
            messages.append({"role": role, "content": text})
        else:
            sentence = f"Blocks of this type cannot be in a message of the {role}."
            raise RequestError(sentence, param="messages", reason="invalid_value")
    if before and messages and before[-1]["role"] == messages[0]["role"] == role:
        before[-1]["content"] += "\n" + messages.pop(0)["content"]
    return messages


def _assistant(blocks: Sequence[Any]) -> dict[str, Any]:
    text = joined([block for block in blocks if isinstance(block, TextBlock)])
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    calls = [_call(block) for block in blocks if isinstance(block, CallBlock)]
    if any(isinstance(block, ResultBlock) for block in blocks):
        sentence = "Blocks of type 'tool_result' can only be in messages of the user."
        raise RequestError(sentence, param="messages", reason="invalid_value")
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    return message | ({"tool_calls": calls} if calls else {})


def _check_results(index: int, turn: Turn, made: set[str]) -> None:
    for place, block in enumerate(turn.content):
        if isinstance(block, ResultBlock) and block.tool_use_id not in made:
            param = f"messages[{index}].content[{place}].tool_use_id"
            sentence = f"'{param}' is that of no 'tool_use' block in an earlier message."
            raise RequestError(sentence, param=param, reason="invalid_value")


def _call(block: CallBlock) -> dict[str, Any]:
    function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
    return {"id": block.id, "type": "function", "function": function}


def _result(block: ResultBlock) -> dict[str, Any]:
    """That a tool failed is said in words, as no chat template knows another way."""
    content = joined(block.content)
    if block.is_error:
        content = f"Error: {content}" if content else "Error"
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}


def _tools(request: MessagesRequest) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice = request.tool_choice or ToolChoice(type="auto")
    named = {"type": "function", "function": {"name": choice.name}}
    return {
        "tools": [_tool(tool) for tool in request.tools],
        "tool_choice": named if choice.type == "tool" else CHOICES[choice.type],
        "parallel_tool_calls": not choice.disable_parallel_tool_use,
    }


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _format(request: MessagesRequest) -> dict[str, Any]:
    form: dict[str, Any] = {}
    if request.output_config.effort is not None:
        form["reasoning_effort"] = request.output_config.effort
    if request.format is not None:
        schema = {"name": "answer", "schema": request.format.content, "strict": True}
        form["response_format"] = {"type": "json_schema", "json_schema": schema}
    return form


def _thinking(request: MessagesRequest) -> dict[str, Any]:
    """Without a word about it a model does what its template has it do."""
    if request.thinking is None or request.thinking.type == "adaptive":
        return {}
    return {"enable_thinking": request.thinking.type == "enabled"}
