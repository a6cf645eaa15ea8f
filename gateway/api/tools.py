"""The tools a request offers and what it says of their use, as people write it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, cast

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from gateway.api.formats import NamePattern
from gateway.api.written import Written
from shared.errors import RequestError

MAX_TOOLS: Final = 128
MAX_CALLS: Final = 16
"""How many calls a forced answer may make: a weak model would make them to its end."""

Mode = Literal["none", "auto", "required"]
MODES: Final = ("none", "auto", "required")


class ToolFunction(Written):
    """A function the model may call. With `strict`, its schema is kept to or refused."""

    name: Annotated[str, Field(pattern=NamePattern)]
    description: Annotated[str, Field(max_length=1 << 16)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _is_of_an_object(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type", "object") != "object":
            raise PydanticCustomError("not_object", "should be the schema of an object")
        return value

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """What a call's arguments have to follow."""
        return {"type": "object", **(self.parameters or {"properties": {}})}


class Tool(Written):
    """OpenAI's wrapping of a function."""

    type: Literal["function"]
    function: ToolFunction

    def for_template(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        function = {
            "name": self.function.name,
            "description": self.function.description or "",
            "parameters": self.function.schema_of_arguments,
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Choosing:
    """What `tool_choice` asks; `names` are the only tools that count, or empty."""

    mode: Mode
    names: tuple[str, ...] = ()
    is_one: bool = False


@dataclass(frozen=True)
class Toolbox:
    """The tools of one answer."""

    tools: tuple[Tool, ...] = ()
    is_forced: bool = False
    is_parallel: bool = True

    @property
    def max_calls(self) -> int:
        """After so many calls the answer is over."""
        return MAX_CALLS if self.is_parallel else 1

    @property
    def names(self) -> frozenset[str]:
        """Those that may be called."""
        return frozenset(tool.function.name for tool in self.tools)


def as_choosing(value: Any) -> Any:
    """Reads a `tool_choice`. What is wrong is not named: it is the client's."""
    if isinstance(value, str) and value in MODES:
        return Choosing(value)
    match value:
        case {"type": "function", "function": {"name": str(name)}}:
            return Choosing("required", (name,), is_one=True)
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list()}}:
            names = [_named(tool) for tool in cast(list[Any], value["allowed_tools"]["tools"])]
            if mode in ("auto", "required") and names and all(names) and len(names) <= MAX_TOOLS:
                return Choosing(mode, tuple(map(str, names)))
        case _:
            pass
    raise PydanticCustomError(
        "tool_choice", "should be 'none', 'auto', 'required', a named function or 'allowed_tools'"
    )


def toolbox_of(
    tools: Sequence[Tool], choosing: Choosing | None, *, is_parallel: bool
) -> Toolbox | None:
    """What may be called; none where nothing may. Raises RequestError for a contradiction."""
    by_name = {tool.function.name: tool for tool in tools}
    if len(by_name) < len(tools):
        raise _bad("tools", "two tools have the same name")
    if choosing is None or (not tools and choosing.mode != "required"):
        return Toolbox(tuple(tools), is_parallel=is_parallel) if tools else None
    if not tools:
        raise _bad("tool_choice", "it is only allowed when 'tools' are given")
    if missing := [name for name in choosing.names if name not in by_name]:
        raise _bad("tool_choice", f"it names {len(missing)} that 'tools' does not have")
    if choosing.mode == "none":
        return None
    wanted = [by_name[name] for name in dict.fromkeys(choosing.names)] or tools
    is_forced = choosing.mode == "required"
    return Toolbox(tuple(wanted), is_forced, is_parallel and not choosing.is_one)


def _named(tool: Any) -> str | None:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case {"type": "function", "name": str(name)}:
            return name
        case _:
            return None


def _bad(param: str, problem: str) -> RequestError:
    sentence = f"Invalid value for '{param}': {problem}."
    return RequestError(sentence, param=param, reason="invalid_value")
