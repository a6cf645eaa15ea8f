"""The chat completion request as people write it. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from gateway.api.asked import UNUSED, Asked
from gateway.api.formats import Form, ResponseFormat, form_of
from gateway.api.parameters import check_supported, ignored_params
from gateway.api.tools import MAX_TOOLS, Choosing, Tool, Toolbox, as_choosing, toolbox_of
from gateway.api.written import Whole, Written, first_mistake
from shared.errors import RequestError
from shared.wire.messages import MAX_TOP_LOGPROBS

MAX_EXTRAS: Final = 32
MAX_EXTRA_CHARACTERS: Final = 1 << 14
EXTRA_NAME: Final = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
UNSUPPORTED_PARTS: Final = ("image_url", "input_audio", "file", "video_url", "input_image")


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Part(Written):
    """One piece of a message's content; its text stands under the name of its type."""

    type: str
    text: Annotated[str | None, Field(validate_default=True)] = None
    refusal: Annotated[str | None, Field(validate_default=True)] = None

    @field_validator("type")
    @classmethod
    def _is_text(cls, kind: str) -> str:
        if kind in UNSUPPORTED_PARTS:
            sentence = "Invalid content type. {kind} is only supported by certain models."
            raise PydanticCustomError("sentence", sentence, {"kind": kind})
        if kind not in ("text", "refusal"):
            raise PydanticCustomError("unknown_part", "must be 'text' or 'refusal'")
        return kind

    @field_validator("text", "refusal")
    @classmethod
    def _is_there(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("type") == info.field_name:
            raise PydanticCustomError("missing", "is missing")
        return value

    def __str__(self) -> str:
        return (self.text if self.type == "text" else self.refusal) or ""


class Function(Written):
    """What an earlier answer called."""

    name: str
    arguments: str

    def for_template(self) -> dict[str, Any]:
        """Templates want the arguments as an object; what is no JSON stays text."""
        try:
            return {"name": self.name, "arguments": json.loads(self.arguments)}
        except (ValueError, RecursionError):
            return {"name": self.name, "arguments": self.arguments}


class ToolCall(Written):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class Message(Written):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    tool_call_id: Annotated[str | None, Field(validate_default=True)] = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    content: Annotated[
        Annotated[list[Part], Field(fail_fast=True), BeforeValidator(_as_parts)] | None,
        Field(validate_default=True),
    ] = None

    @field_validator("tool_call_id")
    @classmethod
    def _answers_a_call(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("role") == "tool":
            raise PydanticCustomError("missing", "is missing")
        return value

    @field_validator("content")
    @classmethod
    def _says_something(cls, value: list[Part] | None, info: ValidationInfo) -> list[Part] | None:
        is_call = info.data.get("role") == "assistant" and info.data.get("tool_calls")
        if value is None and not is_call:
            raise PydanticCustomError("missing", "is missing")
        return value

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it."""
        message: dict[str, Any] = {"role": self.role}
        message["content"] = "".join(map(str, self.content or []))
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": call.type, "function": call.function.for_template()}
                for call in self.tool_calls
            ]
        extras = {
            "name": self.name,
            "tool_call_id": self.tool_call_id,
            "reasoning_content": self.reasoning_content or self.reasoning,
        }
        return message | {name: value for name, value in extras.items() if value is not None}


class ReasoningOptions(Written):
    """OpenRouter's way to ask for thoughts."""

    effort: Effort | None = None
    enabled: bool | None = None


def _bounded(extras: dict[str, Any]) -> dict[str, Any]:
    if len(extras) > MAX_EXTRAS or len(json.dumps(extras)) > MAX_EXTRA_CHARACTERS:
        raise PydanticCustomError(
            "too_long",
            "should have at most {most} entries of {characters} characters in all",
            {"most": MAX_EXTRAS, "characters": MAX_EXTRA_CHARACTERS},
        )
    if not all(EXTRA_NAME.fullmatch(name) for name in extras):
        raise PydanticCustomError("extra_name", "the keys should be names of template variables")
    return extras


class ChatRequest(Asked):
    """The parameters of a chat completion that have an effect."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    logprobs: bool = False
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    prompt_logprobs: Annotated[Whole, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Whole, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True, default_factory=list)]
    tool_choice: Annotated[Choosing, BeforeValidator(as_choosing)] | None = None
    parallel_tool_calls: bool = True
    skip_special_tokens: bool = True
    return_token_ids: bool = False
    strict_limits: bool = False
    reasoning_effort: Effort | None = None
    reasoning: ReasoningOptions | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: Annotated[
        dict[str, Any], Field(default_factory=dict), AfterValidator(_bounded)
    ]
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    verbosity: Literal["low", "medium", "high"] | None = None
    prediction: dict[str, Any] | None = None

    @property
    def budget(self) -> int | None:
        """How many tokens may be sampled at most; none when the request does not say."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def template_extras(self) -> dict[str, Any]:
        """What the request tells the model's template, under the names templates know it by."""
        nested = self.reasoning or ReasoningOptions()
        effort = self.reasoning_effort or nested.effort
        thinks = nested.enabled if self.enable_thinking is None else self.enable_thinking
        if thinks is None and effort is not None:
            thinks = effort != "none"
        extras: dict[str, Any] = {}
        if effort not in (None, "none"):
            extras["reasoning_effort"] = effort
        if thinks is not None:
            extras |= {"enable_thinking": thinks, "thinking": thinks}
        return extras | self.chat_template_kwargs

    @property
    def adds_generation_prompt(self) -> bool:
        """Whether the prompt ends where a new message of the assistant begins."""
        if self.add_generation_prompt is None:
            return not self.continue_final_message
        return self.add_generation_prompt

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives to tell with each token; none when there are to be no logprobs."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def names_tokens(self) -> bool:
        """Whether the answer names single tokens."""
        return self.logprobs or self.prompt_logprobs is not None


USED: Final = frozenset(ChatRequest.model_fields) - UNUSED - {"verbosity", "prediction"}


@dataclass(frozen=True)
class Parsed:
    """A valid request, the form its answer is held to, the tools it may call, and the names of what
    it asked in vain."""

    request: ChatRequest
    form: Form | None
    toolbox: Toolbox | None
    ignored: tuple[str, ...]

    @property
    def held_form(self) -> Form | None:
        """The form where there is a text to be held to it: forced calls leave none."""
        return None if self.toolbox and self.toolbox.is_forced else self.form


def parse_chat(body: Mapping[str, Any]) -> Parsed:
    """Raises RequestError for the first mistake, naming its place and never what was written."""
    given = {name: value for name, value in body.items() if value is not None}
    try:
        request = ChatRequest.model_validate(given)
    except ValidationError as error:
        raise first_mistake(error) from error
    form = form_of(request.response_format, request.structured_outputs)
    toolbox = toolbox_of(
        request.tools, request.tool_choice, is_parallel=request.parallel_tool_calls
    )
    for param, sentence in _contradictions(request, form, toolbox):
        raise RequestError(sentence, param=param, reason="invalid_value")
    check_supported({name: value for name, value in given.items() if name not in USED})
    return Parsed(request, form, toolbox, tuple(ignored_params(given, USED)))


def _contradictions(
    request: ChatRequest, form: Form | None, toolbox: Toolbox | None
) -> Iterator[tuple[str, str]]:
    """The parameters that do not go with others, and why."""
    if request.stream_options is not None and not request.stream:
        sentence = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield "stream_options", sentence
    if request.top_logprobs and not request.logprobs:
        sentence = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
        yield "top_logprobs", sentence
    if request.prompt_logprobs is not None and request.stream:
        sentence = "The 'prompt_logprobs' parameter is not available when 'stream' is enabled."
        yield "prompt_logprobs", sentence
    if request.budget is not None and request.min_tokens > request.budget:
        yield "min_tokens", "'min_tokens' must not be greater than 'max_completion_tokens'."
    if request.continue_final_message and request.adds_generation_prompt:
        sentence = "'continue_final_message' cannot be used with 'add_generation_prompt'."
        yield "continue_final_message", sentence
    if request.continue_final_message and request.messages[-1].role != "assistant":
        sentence = "'continue_final_message' needs a last message of the assistant."
        yield "continue_final_message", sentence
    if form and form.grammar.kind != "json_schema" and toolbox and not toolbox.is_forced:
        sentence = (
            f"'{form.param}' cannot be used with 'tools' that the model may or may not call: "
            "leave one out, use 'response_format', or set 'tool_choice' to 'required' or 'none'."
        )
        yield form.param, sentence
    if request.ignore_eos and toolbox and toolbox.is_forced:
        sentence = "'ignore_eos' cannot be used with forced calls: their end would be ignored."
        yield "ignore_eos", sentence
    if request.ignore_eos and form is not None:
        sentence = f"'ignore_eos' cannot be used with '{form.param}': its end would be ignored."
        yield "ignore_eos", sentence
