"""Tells of tools in plain messages, where a model's chat template does not. Pure.

The words are those that `gateway.markup.calls.tagged` reads an answer by.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

INSTRUCTIONS = """\
You can call these tools. Each line is the JSON schema of one:
{tools}

To call a tool, answer with one line like this for each call and nothing after it:
<tool_call>{{"name": "NAME", "arguments": {{...}}}}</tool_call>
The results come in <tool_response> lines. Call a tool only when it helps."""


def told(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The same conversation in messages without calls, results and tools."""
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    instructions = INSTRUCTIONS.format(tools=lines)
    if plain[0]["role"] not in ("system", "developer"):
        return [{"role": "system", "content": instructions}, *plain]
    first = {**plain[0], "content": f"{plain[0]['content']}\n\n{instructions}".lstrip()}
    return [first, *plain[1:]]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] in ("tool", "function"):
        content = f"<tool_response>{message['content']}</tool_response>"
        return {"role": "user", "content": content}
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    calls = [
        f"<tool_call>{json.dumps(call['function'], ensure_ascii=False)}</tool_call>"
        for call in message.get("tool_calls", ())
    ]
    rest["content"] = "\n".join(filter(None, (message["content"], *calls)))
    return rest
