"""The texts that a request gives to be read: as strings, token ids or messages."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar, cast

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from gateway.api.checks import too_long
from gateway.api.parameters import check_supported, ignored_params
from gateway.api.written import Written, first_mistake
from gateway.served import ServedModel
from shared.errors import RequestError

MAX_TOKEN_ID: Final = 1 << 31

Text = str | tuple[int, ...]
"""A text as it may be given: a string, or its token ids."""

_ONE: Final[list[dict[str, Any]]] = [
    {"type": "string", "minLength": 1},
    {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
]
_SEVERAL: Final = [*_ONE, *({"type": "array", "items": one, "minItems": 1} for one in _ONE)]


def text_of(value: Any) -> Text:
    """A text as JSON has it. Raises PydanticCustomError for anything else."""
    if value in ("", []):
        raise PydanticCustomError("empty", "must not be empty")
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        ids = tuple(_token_ids(cast(list[Any], value)))
        if all(0 <= token_id < MAX_TOKEN_ID for token_id in ids):
            return ids
        raise PydanticCustomError("token_id", "the token ids should not be negative or too large")
    raise PydanticCustomError("text_type", "should be a string or a list of token ids")


def texts_of(value: Any) -> tuple[Text, ...]:
    """One text or several, as JSON has them. Raises PydanticCustomError for anything else."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        return tuple(text_of(one) for one in cast(list[Any], value))
    return (text_of(value),)


def _token_ids(values: Sequence[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise PydanticCustomError("text_type", "should hold either strings or token ids")
        yield int(value)


OneText = Annotated[Any, BeforeValidator(text_of), WithJsonSchema({"anyOf": _ONE})]
Texts = Annotated[Any, BeforeValidator(texts_of), WithJsonSchema({"anyOf": _SEVERAL})]


class ReadRequest(Written):
    """What every request to read texts says."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    add_special_tokens: Annotated[
        bool, Field(description="whether strings get what the tokenizer puts around a text")
    ] = True


R = TypeVar("R", bound=ReadRequest)


def parse(kind: type[R], body: Mapping[str, Any]) -> tuple[R, dict[str, str]]:
    """A valid request, and the headers that say what it asked in vain.

    Raises RequestError for the first mistake, naming its place and never what was written.
    """
    given = {name: value for name, value in body.items() if value is not None}
    used = kind.model_fields.keys()
    try:
        request = kind.model_validate(given)
    except ValidationError as error:
        raise first_mistake(error) from error
    check_supported({name: value for name, value in given.items() if name not in used})
    ignored = ignored_params(given, used)
    return request, {"x-ignored-params": ", ".join(ignored)} if ignored else {}


async def tokens_of(model: ServedModel, text: Text, request: ReadRequest) -> tuple[int, ...]:
    """A text's token ids. Raises RequestError when the model cannot read it."""
    if isinstance(text, str):
        text = await asyncio.to_thread(
            model.plain.encode, text, with_special=request.add_special_tokens
        )
    check_fits(model, text, "input")
    if max(text) >= model.spec.vocab_size:
        raise RequestError(
            f"Invalid value for 'input': token ids must be below {model.spec.vocab_size}.",
            param="input",
            reason="invalid_value",
        )
    return text


def check_fits(model: ServedModel, tokens: Sequence[int], param: str) -> None:
    """Raises RequestError when a text has no tokens, or more than the model can see."""
    if not tokens:
        raise RequestError(f"The {param} holds no tokens.", param=param, reason="invalid_value")
    if len(tokens) > model.spec.max_positions:
        raise too_long(model.spec, len(tokens), param)
