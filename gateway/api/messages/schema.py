"""The request of /v1/messages, Anthropic's API, as people write it. Pure.

https://docs.anthropic.com/en/api/messages
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from gateway.api.foreign import sort_params
from gateway.api.formats import NamePattern
from gateway.api.kinds import one_of
from gateway.api.messages.blocks import Blocks, TextBlocks
from gateway.api.written import Whole, Written, first_mistake
from shared.errors import RequestError

INSTEAD: Final = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
"""Parameters of chat completions, and what does the same here."""

NO_SERVER_TOOLS: Final = (
    "Tools of type '{kind}' are not served here; describe a tool of your own with 'input_schema'."
)


class Turn(Written):
    """What one side said."""

    role: Literal["user", "assistant", "system"]
    content: Blocks


class Tool(Written):
    """A function that the client runs."""

    type: str
    name: Annotated[str, Field(pattern=NamePattern)]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


AnyTool = Annotated[Tool, one_of({"custom": Tool}, default="custom", others=NO_SERVER_TOOLS)]


class ToolChoice(Written):
    """Whether, and which, tools are to be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Written):
    """Whether the model should think aloud. The budget is the model's own affair."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[Whole, Field(ge=1)] | None = None


class OutputFormat(Written):
    """What the text is held to."""

    type: Literal["json_schema"]
    content: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Written):
    """How the answer should be."""

    effort: str | None = None
    format: OutputFormat | None = None


class MessagesRequest(Written):
    """The parameters of a message that have an effect, and those that are refused."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[Turn], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[Whole, Field(ge=1)]
    system: TextBlocks = Field([])
    stop_sequences: Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(max_length=16, fail_fast=True)
    ] = Field([])
    stream: bool = False
    temperature: Annotated[float, Field(ge=0, le=1)] = 1.0
    tools: Annotated[list[AnyTool], Field(max_length=128, fail_fast=True)] = Field([])
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: OutputFormat | None = None
    mcp_servers: list[Any] = Field([])
    container: Any = None
    metadata: Any = None
    service_tier: Any = None

    @property
    def format(self) -> OutputFormat | None:
        """What the text is held to; it has been in two places."""
        return self.output_config.format or self.output_format


OWN: Final = frozenset(MessagesRequest.model_fields)


@dataclass(frozen=True)
class Parsed:
    """A valid request, what of it passes into the chat body as it is, and what has no effect."""

    request: MessagesRequest
    passed: dict[str, Any]
    ignored: tuple[str, ...]


def parse_messages(body: Mapping[str, Any]) -> Parsed:
    """Raises RequestError for the first mistake, naming its place and never what was written."""
    given = {name: value for name, value in body.items() if value is not None}
    try:
        request = MessagesRequest.model_validate(given)
    except ValidationError as error:
        raise first_mistake(error) from error
    for param, sentence in _refusals(request):
        raise RequestError(sentence, param=param, reason="unsupported_parameter")
    others = sort_params(given, OWN, INSTEAD)
    return Parsed(request, others.passed, (*others.ignored, *_in_vain(request)))


def _refusals(request: MessagesRequest) -> Iterator[tuple[str, str]]:
    """The parameters that ask for what is not done here, and what to do instead."""
    if request.mcp_servers:
        yield "mcp_servers", "'mcp_servers' is not supported here: call them from the client."
    if request.container is not None:
        yield "container", "'container' is not supported here: no code is run by this server."
    choice = request.tool_choice
    if choice and choice.type in ("any", "tool") and not request.tools:
        yield "tool_choice", "'tool_choice' asks for a tool, and there are none in 'tools'."
    is_named = choice is not None and choice.type == "tool"
    if choice and is_named and choice.name not in {tool.name for tool in request.tools}:
        yield "tool_choice.name", "'tool_choice.name' must be the name of one of the 'tools'."


def _in_vain(request: MessagesRequest) -> Iterator[str]:
    if request.thinking and request.thinking.budget_tokens is not None:
        yield "thinking.budget_tokens"
    for name in ("metadata", "service_tier"):
        if getattr(request, name) is not None:
            yield name
