"""The request of /v1/responses as people write it. Pure.

https://platform.openai.com/docs/api-reference/responses
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError

from gateway.api.foreign import sort_params
from gateway.api.formats import NamePattern
from gateway.api.responses.items import InputItem, as_input
from gateway.api.responses.tools import AnyTool, ToolChoice
from gateway.api.written import Whole, Written, first_mistake
from shared.errors import RequestError
from shared.wire.messages import MAX_TOP_LOGPROBS

WITH_LOGPROBS: Final = "message.output_text.logprobs"
WITH_REASONING: Final = "reasoning.encrypted_content"

Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
"""Those of tools that are never called, and of images that are never there, ask for nothing."""

INSTEAD: Final = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
    "functions": "tools",
    "function_call": "tool_choice",
}
"""Parameters of chat completions, and what does the same here."""


class TextFormat(Written):
    """What the text is held to."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=NamePattern)] = "answer"
    content: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(Written):
    """How the text should be."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(Written):
    """How much the model should think aloud."""

    effort: str | None = None
    summary: Any = None
    generate_summary: Any = None


class StreamOptions(Written):
    """Padding of events is not done, and may be declined."""

    include_obfuscation: bool | None = None


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class ResponseRequest(Written):
    """The parameters of a response that have an effect, and those that are refused."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Annotated[
        list[InputItem], Field(min_length=1, fail_fast=True), BeforeValidator(as_input)
    ]
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=128)] | None = None
    store: bool = True
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[Whole, Field(ge=1)] | None = None
    tools: Annotated[list[AnyTool], Field(max_length=128, fail_fast=True)] = Field([])
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    text: TextOptions = TextOptions()
    reasoning: ReasoningOptions = ReasoningOptions()
    include: list[Include] = Field([])
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    background: bool = False
    conversation: Any = None
    prompt: Any = None
    metadata: Metadata = Field({})

    @property
    def wants_logprobs(self) -> bool:
        """Whether the text comes with how likely its tokens were."""
        return WITH_LOGPROBS in self.include or self.top_logprobs is not None


OWN: Final = frozenset(ResponseRequest.model_fields)


@dataclass(frozen=True)
class Parsed:
    """A valid request, what of it passes into the chat body as it is, and what has no effect."""

    request: ResponseRequest
    passed: dict[str, Any]
    ignored: tuple[str, ...]


def parse_response(body: Mapping[str, Any]) -> Parsed:
    """Raises RequestError for the first mistake, naming its place and never what was written."""
    given = {name: value for name, value in body.items() if value is not None}
    try:
        request = ResponseRequest.model_validate(given)
    except ValidationError as error:
        raise first_mistake(error) from error
    for param, sentence in _refusals(request):
        raise RequestError(sentence, param=param, reason="unsupported_parameter")
    others = sort_params(given, OWN, INSTEAD)
    return Parsed(request, others.passed, (*others.ignored, *_in_vain(request)))


def _refusals(request: ResponseRequest) -> Iterator[tuple[str, str]]:
    """The parameters that ask for what is not done here, and what to do instead."""
    if request.background:
        yield "background", "Responses are not made in the background here: leave 'background' out."
    if request.truncation == "auto":
        sentence = "Nothing is left out of the input here: 'truncation' must be 'disabled'."
        yield "truncation", sentence
    if request.conversation is not None:
        sentence = "'conversation' is not supported here; use 'previous_response_id'."
        yield "conversation", sentence
    if request.prompt is not None:
        yield "prompt", "'prompt' is not supported here; use 'instructions' and 'input'."
    if request.stream_options is not None and not request.stream:
        sentence = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield "stream_options", sentence
    form = request.text.format
    if form and form.type == "json_schema" and form.content is None:
        yield "text.format.schema", "Missing required parameter: 'text.format.schema'."


def _in_vain(request: ResponseRequest) -> Iterator[str]:
    if request.text.verbosity is not None:
        yield "text.verbosity"
    if request.reasoning.summary is not None or request.reasoning.generate_summary is not None:
        yield "reasoning.summary"
