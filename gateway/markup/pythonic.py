"""Calls written as a list in Python: `[f(a=1, b="x"), g()]`, as Llama 3.2 and 4 do. Pure."""

import ast
import json
import re
from typing import Any, Final

from gateway.markup.calls import Accepts
from gateway.markup.incoming import Arguments, Begun, Done, Incoming, Reading, Shown

MAX_CHARACTERS: Final = 1 << 12
"""A list longer than this is text: it is only told when it is whole, and until then read anew with
each token, which at the worst takes 2 ms (2-core machine)."""

BEGINNING: Final = re.compile(r"\[\s*[A-Za-z_][\w.]*\s*\(")
HALF: Final = re.compile(r"\[?\s*(?:[A-Za-z_][\w.]*)?\s*")
TOKEN: Final = re.compile(r"""\\.|["']|[()\[\]{}]""", re.DOTALL)


def pythonic(source: Incoming, accepts: Accepts) -> Reading:
    """A list of calls at the beginning, then text. Arguments are named and plain values."""
    yield from source.accept("<|python_start|>")
    while not (end := _end_of_list(source.text.lstrip())):
        if source.is_ended or not _may_be_calls(source.text.lstrip()):
            break
        yield None
    else:
        space = len(source.text) - len(source.text.lstrip())
        calls = _calls(source.text[space : space + end])
        if calls and all(accepts(name) for name, _ in calls):
            source.skip(space + end)
            for name, arguments in calls:
                yield Begun(name)
                yield Arguments(arguments)
                yield Done(True)
            yield from source.accept("<|python_end|>")
            yield from source.skip_space()
    yield from source.rest(Shown)


def _may_be_calls(text: str) -> bool:
    if len(text) > MAX_CHARACTERS:
        return False
    return bool(BEGINNING.match(text) or HALF.fullmatch(text))


def _end_of_list(text: str) -> int:
    """Where the first bracket closes; 0 while it does not, or none opens first."""
    if not BEGINNING.match(text):
        return 0
    depth, quote = 0, ""
    for token in TOKEN.finditer(text):
        match token.group():
            case '"' | "'" as mark:
                quote = "" if quote == mark else quote or mark
            case "(" | "[" | "{" if not quote:
                depth += 1
            case ")" | "]" | "}" if not quote:
                depth -= 1
                if depth == 0:
                    return token.end()
            case _:
                pass
    return 0


def _calls(text: str) -> list[tuple[str, str]]:
    """Names and arguments as JSON; empty when the text is anything else."""
    try:
        written = ast.parse(text, mode="eval").body
        return [_call(one) for one in written.elts] if isinstance(written, ast.List) else []
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []


def _call(node: ast.expr) -> tuple[str, str]:
    """Raises ValueError or TypeError for what is no call with plain values."""
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("not a call with named arguments")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("not a named argument")
        arguments[keyword.arg] = ast.literal_eval(JSON_NAMES.visit(keyword.value))
    return ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False, allow_nan=False)


class _JsonNames(ast.NodeTransformer):
    """Takes JSON's names of some values for Python's."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """One name."""
        values = {"true": True, "false": False, "null": None}
        return ast.Constant(values[node.id]) if node.id in values else node


JSON_NAMES: Final = _JsonNames()
