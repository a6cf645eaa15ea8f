"""The completion request as people write it: text to go on with, no conversation. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from gateway.api.asked import UNUSED, Asked
from gateway.api.formats import Form, form_of
from gateway.api.parameters import check_supported, ignored_params
from gateway.api.written import Whole, first_mistake
from shared.errors import RequestError
from shared.wire.messages import MAX_TOP_LOGPROBS

MAX_CHOICES: Final = 16
"""Of one prompt."""

MAX_GENERATIONS: Final = 64
"""Of one request, over all its prompts."""

DEFAULT_MAX_TOKENS: Final = 16

Prompt = str | tuple[int, ...]
"""Text, or the token ids it is written as."""

PROMPT_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "minItems": 1,
        },
    ]
}


def _as_prompts(value: Any) -> Any:
    """All four ways to write prompts as the one that has them all."""
    if isinstance(value, str):
        return (value,)
    items = cast("list[Any]", value) if isinstance(value, list) else []
    if not items:
        raise PydanticCustomError("prompt_type", "should be a text, token ids, or a list of these")
    if all(isinstance(item, str) for item in items):
        return tuple(items)
    if any(isinstance(item, list) for item in items):
        return tuple(map(_as_ids, items))
    return (_as_ids(items),)


def _as_ids(value: Any) -> tuple[int, ...]:
    ids = cast("list[Any]", value) if isinstance(value, list) else []
    if not ids or not all(map(_is_id, ids)):
        raise PydanticCustomError("prompt_type", "should be a text, token ids, or a list of these")
    return tuple(map(int, ids))


def _is_id(value: Any) -> bool:
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return is_whole and not isinstance(value, bool) and 0 <= value < 1 << 31


class CompletionRequest(Asked):
    """The parameters of a completion that have an effect."""

    prompt: Annotated[
        tuple[Prompt, ...],
        Field(max_length=MAX_GENERATIONS, json_schema_extra=PROMPT_SCHEMA),
        BeforeValidator(_as_prompts),
    ]
    max_tokens: Annotated[Whole, Field(ge=0)] = DEFAULT_MAX_TOKENS
    echo: bool = False
    logprobs: Annotated[Whole, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    n: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] = 1
    best_of: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    suffix: str | None = None
    add_special_tokens: bool = True

    @property
    def num_tried(self) -> int:
        """How many continuations of a prompt are made."""
        return self.best_of or self.n

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's own tokens come with logprobs."""
        return self.echo and self.logprobs is not None


USED: Final = frozenset(CompletionRequest.model_fields) - UNUSED


@dataclass(frozen=True)
class ParsedCompletion:
    """A valid request, the form its answer is held to, and the names of what it asked in vain."""

    request: CompletionRequest
    form: Form | None
    ignored: tuple[str, ...]


def parse_completion(body: Mapping[str, Any]) -> ParsedCompletion:
    """Raises RequestError for the first mistake, naming its place and never what was written."""
    given = {name: value for name, value in body.items() if value is not None}
    try:
        request = CompletionRequest.model_validate(given)
    except ValidationError as error:
        raise first_mistake(error) from error
    form = form_of(None, request.structured_outputs)
    for param, sentence in _contradictions(request, form):
        raise RequestError(sentence, param=param, reason="invalid_value")
    if request.suffix:
        raise RequestError(
            "Unsupported parameter: 'suffix' is not supported with this model.",
            param="suffix",
            reason="unsupported_parameter",
        )
    check_supported({name: value for name, value in given.items() if name not in USED})
    return ParsedCompletion(request, form, tuple(ignored_params(given, USED)))


def _contradictions(request: CompletionRequest, form: Form | None) -> Iterator[tuple[str, str]]:
    """The parameters that do not go with others, and why."""
    if request.stream_options is not None and not request.stream:
        sentence = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield "stream_options", sentence
    if request.num_tried < request.n:
        yield "best_of", "'best_of' must not be less than 'n'."
    if request.num_tried > request.n and request.stream:
        yield "best_of", "'best_of' greater than 'n' is not available when 'stream' is enabled."
    if len(request.prompt) * request.num_tried > MAX_GENERATIONS:
        sentence = f"All prompts together may have at most {MAX_GENERATIONS} continuations."
        yield "n" if request.best_of is None else "best_of", sentence
    if request.min_tokens > request.max_tokens:
        yield "min_tokens", "'min_tokens' must not be greater than 'max_tokens'."
    if request.ignore_eos and form is not None:
        sentence = f"'ignore_eos' cannot be used with '{form.param}': its end would be ignored."
        yield "ignore_eos", sentence
