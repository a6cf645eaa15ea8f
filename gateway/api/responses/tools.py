"""Tools as /v1/responses writes them, and the functions that a chat completion knows. Pure.

A custom tool, which takes any text, is a function of one string; a function in a namespace goes by
its own name where that is the only one, else by both. What is called goes back by the same book.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from gateway.api.formats import NamePattern
from gateway.api.kinds import one_of
from gateway.api.written import Written
from shared.errors import RequestError

Name = Annotated[str, Field(pattern=NamePattern)]

NO_BUILT_IN: Final = (
    "The built-in tool '{kind}' is not served here; describe a tool of your own with "
    "'type': 'function'."
)
TEXT_PARAMETERS: Final = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class FunctionTool(Written):
    """A function that takes JSON."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class CustomTool(Written):
    """A tool that takes any text; a grammar of it is told to the model and not enforced."""

    type: Literal["custom"]
    name: Name
    description: str | None = None
    format: dict[str, Any] | None = None


class Namespace(Written):
    """Tools that go together."""

    type: Literal["namespace"]
    name: Name
    description: str | None = None
    tools: Annotated[
        list[
            Annotated[
                FunctionTool | CustomTool, one_of({"function": FunctionTool, "custom": CustomTool})
            ]
        ],
        Field(max_length=128, fail_fast=True),
    ]


class AbsentTool(Written):
    """A built-in tool that agents offer beside their own, free to go uncalled."""

    type: str


AnyTool = Annotated[
    FunctionTool | CustomTool | Namespace | AbsentTool,
    one_of(
        {
            "function": FunctionTool,
            "custom": CustomTool,
            "namespace": Namespace,
            "web_search": AbsentTool,
            "tool_search": AbsentTool,
            "image_generation": AbsentTool,
        },
        others=NO_BUILT_IN,
    ),
]


class Named(Written):
    """One tool to call."""

    type: Literal["function", "custom"]
    name: str
    namespace: str | None = None


class Allowed(Written):
    """Some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[
        list[Annotated[Named, one_of({"function": Named, "custom": Named})]],
        Field(min_length=1, max_length=128, fail_fast=True),
    ]


_choice = one_of({"function": Named, "custom": Named, "allowed_tools": Allowed}, others=NO_BUILT_IN)


def _read_choice(value: Any) -> Any:
    if isinstance(value, str):
        if value not in ("none", "auto", "required"):
            raise PydanticCustomError("unknown", "must be 'none', 'auto', 'required' or an object")
        return value
    return cast(Any, _choice.func)(value)


ToolChoice = Annotated[Named | Allowed | str, PlainValidator(_read_choice)]


@dataclass(frozen=True)
class Entry:
    """A tool in the book: under which name it was given, and where it stood."""

    tool: FunctionTool | CustomTool
    namespace: str | None
    place: str

    @property
    def is_custom(self) -> bool:
        """Whether it takes any text."""
        return isinstance(self.tool, CustomTool)

    def for_chat(self, name: str) -> dict[str, Any]:
        """The function that stands for it."""
        function: dict[str, Any] = {"name": name}
        if self.tool.description is not None:
            function["description"] = self.tool.description
        if isinstance(self.tool, CustomTool):
            function["parameters"] = TEXT_PARAMETERS
            function["description"] = _described(self.tool)
        elif self.tool.parameters is not None:
            function["parameters"] = self.tool.parameters
        if isinstance(self.tool, FunctionTool) and self.tool.strict is not None:
            function["strict"] = self.tool.strict
        return {"type": "function", "function": function}


class ToolBook:
    """The functions of a chat completion by name, and the tools they stand for."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self.entries = entries

    @classmethod
    def of(cls, tools: Sequence[Any], choice: Any) -> tuple[Self, list[str]]:
        """The book, and the places of the tools that are offered in vain.

        Raises RequestError when no other tool is left, or one of them is to be called.
        """
        found = list(_entries(tools))
        book = cls(_named(found))
        absent = [f"tools[{i}]" for i, tool in enumerate(tools) if isinstance(tool, AbsentTool)]
        if absent and (not found or choice == "required"):
            index = next(i for i, tool in enumerate(tools) if isinstance(tool, AbsentTool))
            sentence = NO_BUILT_IN.format(kind=tools[index].type)
            place = f"tools[{index}].type"
            raise RequestError(sentence, param=place, reason="unsupported_parameter")
        return book, absent

    def for_chat(self) -> list[dict[str, Any]]:
        """The chat body's `tools`."""
        return [entry.for_chat(name) for name, entry in self.entries.items()]

    def name_of(self, name: str, namespace: str | None) -> str:
        """The function that stands for a tool; a tool that is not here any more keeps its name."""
        for flat, entry in self.entries.items():
            if (entry.tool.name, entry.namespace) == (name, namespace):
                return flat
        return name

    def choice_for_chat(self, choice: Any) -> Any:
        """The chat body's `tool_choice`. Raises RequestError for a tool that is not here."""
        match choice:
            case Named():
                return self._function(choice, "tool_choice.name")
            case Allowed():
                allowed = [
                    self._function(tool, f"tool_choice.tools[{index}].name")
                    for index, tool in enumerate(choice.tools)
                ]
                inner = {"mode": choice.mode, "tools": allowed}
                return {"type": "allowed_tools", "allowed_tools": inner}
            case _:
                return choice

    def _function(self, named: Named, place: str) -> dict[str, Any]:
        name = self.name_of(named.name, named.namespace)
        if name not in self.entries:
            sentence = f"Invalid value for '{place}': there is no tool of that name in 'tools'."
            raise RequestError(sentence, param=place, reason="invalid_value")
        return {"type": "function", "function": {"name": name}}


def _entries(tools: Sequence[Any]) -> Iterator[Entry]:
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        if isinstance(tool, Namespace):
            for inner, one in enumerate(tool.tools):
                yield Entry(one, tool.name, f"{place}.tools[{inner}]")
        elif isinstance(tool, FunctionTool | CustomTool):
            yield Entry(tool, None, place)


def _named(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Each entry under a name of its own. Raises RequestError where there is none."""
    num_of = Counter(entry.tool.name for entry in entries)
    named: dict[str, Entry] = {}
    for entry in entries:
        name = entry.tool.name
        if num_of[name] > 1 and entry.namespace is not None:
            name = f"{entry.namespace}__{name}"
        if name in named or len(name) > 64:
            place = f"{entry.place}.name"
            sentence = f"Invalid value for '{place}': another tool goes by that name already."
            raise RequestError(sentence, param=place, reason="invalid_value")
        named[name] = entry
    return named


def _described(tool: CustomTool) -> str:
    """A custom tool's description, and the grammar of its input as far as there is one."""
    definition = (tool.format or {}).get("definition")
    told = f"The input must follow this grammar:\n{definition}" if definition else ""
    return "\n\n".join(filter(None, (tool.description, told)))


def text_of(arguments: str) -> str:
    """What a custom tool is given, out of the arguments of the function that stands for it."""
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = cast(dict[str, Any], read).get("input") if isinstance(read, dict) else None
    return text if isinstance(text, str) else arguments
