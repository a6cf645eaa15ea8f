"""The chat completion request as people write it. Pure."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gateway.api.asked import Asked
from gateway.api.formats import Form, ResponseFormat, form_of
from gateway.api.parameters import check_supported, ignored_params
from gateway.api.written import Whole, Written, first_mistake
from shared.errors import RequestError
from shared.wire.messages import MAX_TOP_LOGPROBS

UNSUPPORTED_PARTS: Final = ("image_url", "input_audio", "file", "video_url", "input_image")


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
        extras = ("name", "tool_call_id", "reasoning_content")
        said = {name: getattr(self, name) for name in extras if getattr(self, name) is not None}
        return message | said


class ChatRequest(Asked):
    """The parameters of a chat completion that have an effect."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    logprobs: bool = False
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    prompt_logprobs: Annotated[Whole, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Whole, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None

    @property
    def budget(self) -> int | None:
        """How many tokens may be sampled at most; none when the request does not say."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives to tell with each token; none when there are to be no logprobs."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def names_tokens(self) -> bool:
        """Whether the answer names single tokens."""
        return self.logprobs or self.prompt_logprobs is not None


USED: Final = frozenset(ChatRequest.model_fields)


@dataclass(frozen=True)
class Parsed:
    """A valid request, the form its answer is held to, and the names of what it asked in vain."""

    request: ChatRequest
    form: Form | None
    ignored: tuple[str, ...]


def parse_chat(body: Mapping[str, Any]) -> Parsed:
    """Raises RequestError for the first mistake, naming its place and never what was written."""
    given = {name: value for name, value in body.items() if value is not None}
    try:
        request = ChatRequest.model_validate(given)
    except ValidationError as error:
        raise first_mistake(error) from error
    form = form_of(request.response_format, request.structured_outputs)
    for param, sentence in _contradictions(request, form):
        raise RequestError(sentence, param=param, reason="invalid_value")
    check_supported(given)
    return Parsed(request, form, tuple(ignored_params(given, USED)))


def _contradictions(request: ChatRequest, form: Form | None) -> Iterator[tuple[str, str]]:
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
    if request.ignore_eos and form is not None:
        sentence = f"'ignore_eos' cannot be used with '{form.param}': its end would be ignored."
        yield "ignore_eos", sentence
