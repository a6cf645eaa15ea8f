"""The grammars of answers that have to call tools, or to have a form where they call none, as any
model can follow them. Pure.

Each schema stands as an island of its own in the grammar, so that its references find what they
refer to. What comes out is read by `gateway.markup.calls.listed`.
https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json
from typing import Any, Final

from gateway.api.tools import MAX_CALLS, Tool, Toolbox
from shared.errors import RequestError
from shared.grammars import WHITESPACE
from shared.wire.messages import MAX_GRAMMAR_CHARACTERS, Grammar

ONE: Final = "calls: call\n"
SOME: Final = f'calls: "[" call (", " call){{0,{MAX_CALLS - 1}}} "]"\n'


def forced(toolbox: Toolbox) -> Grammar:
    """One call, or a list of some, of these tools. Raises RequestError when it gets too long."""
    return _grammar("start: calls\n", toolbox)


def optional(toolbox: Toolbox, form: Grammar) -> Grammar:
    """The same, or an answer of the form, which is JSON's. Raises RequestError likewise."""
    # the other kind of schema is `true`, which is anything
    schema: dict[str, Any] = json.loads(form.text) if form.text.startswith("{") else {}
    answer = _json(schema, lenient=form.lenient)
    return _grammar(f"start: calls | answer\nanswer: {answer}\n", toolbox)


def beginnings(toolbox: Toolbox) -> tuple[str, ...]:
    """What the calls of such an answer may begin with, each up to the arguments."""
    opener = "[" if toolbox.is_parallel else ""
    return tuple(opener + _head(tool) for tool in toolbox.tools)


def _grammar(start: str, toolbox: Toolbox) -> Grammar:
    calls = [_call(index, tool) for index, tool in enumerate(toolbox.tools)]
    names = " | ".join(f"call_{index}" for index in range(len(calls)))
    head = SOME if toolbox.is_parallel else ONE
    text = f"{start}{head}call: {names}\n" + "".join(calls)
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
    arguments = _json(function.schema_of_arguments, lenient=function.strict is not True)
    # the brace alone, as lexers are greedy: a form's answer may begin with one too
    brace, head = '"{"', json.dumps(_head(tool).removeprefix("{"))
    return f'call_{index}: {brace} {head} args_{index} "}}"\nargs_{index}: {arguments}\n'


def _head(tool: Tool) -> str:
    return f'{{"name": {json.dumps(tool.function.name)}, "arguments": '


def _json(schema: dict[str, Any], *, lenient: bool) -> str:
    options = {"whitespace_pattern": WHITESPACE, "lenient": lenient}
    return f"%json {json.dumps({**schema, 'x-guidance': options})}"
