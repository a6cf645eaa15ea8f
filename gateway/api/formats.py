"""The forms an answer may be held to, as people ask for them, and the grammars they mean. Pure."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from shared.errors import RequestError
from shared.wire.messages import MAX_GRAMMAR_CHARACTERS, Grammar

JSON_OBJECT: Final = Grammar("json_schema", '{"type":"object"}')

NamePattern: Final = r"^[a-zA-Z0-9_-]{1,64}$"


class _Written(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class JsonSchema(_Written):
    """OpenAI's wrapping of a schema. Without `strict`, keywords we do not know are passed over."""

    name: Annotated[str, Field(pattern=NamePattern)]
    content: Annotated[dict[str, Any], Field(alias="schema")] = {}
    strict: bool | None = None


class ResponseFormat(_Written):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Annotated[JsonSchema | None, Field(validate_default=True)] = None

    @field_validator("json_schema")
    @classmethod
    def _is_there(cls, value: JsonSchema | None, info: ValidationInfo) -> JsonSchema | None:
        if value is None and info.data.get("type") == "json_schema":
            raise PydanticCustomError("missing", "is missing")
        return value


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`: exactly one of these."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    content: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    grammar: str | None = None


@dataclass(frozen=True)
class Form:
    """A grammar, and the parameter that asked for it."""

    grammar: Grammar
    param: str


def form_of(
    response_format: ResponseFormat | None, structured: StructuredOutputs | None
) -> Form | None:
    """What an answer is held to; none when it is free. Raises RequestError for a contradiction."""
    by_format = _of_format(response_format) if response_format else None
    by_structure = _of_structure(structured) if structured else None
    if by_format and by_structure:
        sentence = "'response_format' and 'structured_outputs' cannot both be used."
        raise RequestError(sentence, param="structured_outputs", reason="invalid_value")
    return by_format or by_structure


def _of_format(form: ResponseFormat) -> Form | None:
    if form.type == "text":
        return None
    if form.type == "json_object" or form.json_schema is None:
        return Form(JSON_OBJECT, "response_format")
    param = "response_format.json_schema.schema"
    is_lenient = form.json_schema.strict is not True
    return _form("json_schema", _dumped(form.json_schema.content), param, lenient=is_lenient)


def _of_structure(form: StructuredOutputs) -> Form | None:
    for name, value in (form.model_extra or {}).items():
        if value is not None:
            place = f"structured_outputs.{name[:64]}"
            raise RequestError(
                f"Unsupported parameter: '{place}' is not supported here; "
                "'json', 'regex' and 'grammar' are.",
                param=place,
                reason="unsupported_parameter",
            )
    found: list[Form] = []
    if form.content is not None:
        schema = form.content if isinstance(form.content, str) else _dumped(form.content)
        found.append(_form("json_schema", schema, "structured_outputs.json"))
    if form.regex is not None:
        found.append(_form("regex", form.regex, "structured_outputs.regex"))
    if form.grammar is not None:
        found.append(_form("lark", form.grammar, "structured_outputs.grammar"))
    if len(found) != 1:
        sentence = "'structured_outputs' takes exactly one of 'json', 'regex' and 'grammar'."
        raise RequestError(sentence, param="structured_outputs", reason="invalid_value")
    return found[0]


def _form(
    kind: Literal["json_schema", "regex", "lark"], text: str, param: str, *, lenient: bool = False
) -> Form:
    if not 0 < len(text) <= MAX_GRAMMAR_CHARACTERS:
        sentence = f"'{param}' must be of 1 to {MAX_GRAMMAR_CHARACTERS} characters."
        raise RequestError(sentence, param=param, reason="invalid_value")
    return Form(Grammar(kind, text, lenient), param)


def _dumped(schema: dict[str, Any]) -> str:
    """In the order it was written: that is the order the properties will come in."""
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
