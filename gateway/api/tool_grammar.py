"""The grammar of an answer that has to call tools, as any model can follow it. Pure.

Each schema stands as an island of its own in the grammar, so that its references find what they
refer to. What comes out is read by `gateway.markup.calls.listed`.
https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json
from typing import Final

from gateway.api.tools import MAX_CALLS, Tool, Toolbox
from shared.errors import RequestError
from shared.grammars import WHITESPACE
from shared.wire.messages import MAX_GRAMMAR_CHARACTERS, Grammar

ONE: Final = "start: call\n"
SOME: Final = f'start: "[" call (", " call){{0,{MAX_CALLS - 1}}} "]"\n'


def forced(toolbox: Toolbox) -> Grammar:
    """One call, or a list of some, of these tools. Raises RequestError when it gets too long."""
    calls = [_call(index, tool) for index, tool in enumerate(toolbox.tools)]
    names = " | ".join(f"call_{index}" for index in range(len(calls)))
    head = SOME if toolbox.is_parallel else ONE
    text = f"{head}call: {names}\n" + "".join(calls)
    if len(text) > MAX_GRAMMAR_CHARACTERS:
        raise RequestError(
            f"The schemas of 'tools' make a grammar of {len(text)} characters, and at most "
            f"{MAX_GRAMMAR_CHARACTERS} can be forced: offer fewer with this 'tool_choice'.",
            param="tools",
            reason="invalid_value",
        )
    return Grammar("lark", text)


def alone(tool: Tool) -> Grammar:
    """The grammar of one tool's calls, to find out whose schema is at fault."""
    return forced(Toolbox((tool,), is_forced=True, is_parallel=False))


def _call(index: int, tool: Tool) -> str:
    function = tool.function
    head = json.dumps(f'{{"name": {json.dumps(function.name)}, "arguments": ')
    options = {"whitespace_pattern": WHITESPACE, "lenient": function.strict is not True}
    schema = {**function.schema_of_arguments, "x-guidance": options}
    return f'call_{index}: {head} args_{index} "}}"\nargs_{index}: %json {json.dumps(schema)}\n'
