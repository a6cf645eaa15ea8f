"""JSON objects whose `type` says what else is in them, each read as its kind. Pure."""

from collections.abc import Mapping
from typing import Any, Final, cast

from pydantic import PlainValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.api.written import Written

MAX_NAMED_CHARACTERS: Final = 64
NO_REFUSALS: Final[Mapping[str, str]] = {}


def one_of(
    kinds: Mapping[str, type[Written]],
    *,
    default: str | None = None,
    refused: Mapping[str, str] = NO_REFUSALS,
    others: str | None = None,
) -> PlainValidator:
    """Reads an object as the model that `kinds` names for its type, `default` if it has none.

    `refused` are the sentences for types that are known and not served, `others` the one for all
    the rest; in each, `{kind}` is the type. Places of mistakes are as if the model stood there by
    itself.
    """

    def read(value: Any) -> Written:
        if not isinstance(value, dict):
            raise PydanticCustomError("object_type", "should be an object")
        given = cast(dict[str, Any], value)
        kind = default if given.get("type") is None else given["type"]
        if kind is None:
            raise _at_type(PydanticCustomError("missing", "is missing"))
        if not isinstance(kind, str):
            raise _at_type(PydanticCustomError("string_type", "should be a string"))
        if kind not in kinds and (sentence := refused.get(kind, others)):
            named = {"kind": kind[:MAX_NAMED_CHARACTERS]}
            raise _at_type(PydanticCustomError("sentence", cast(Any, sentence), named))
        if kind not in kinds:
            raise _at_type(PydanticCustomError("unknown_kind", cast(Any, _choice(kinds))))
        return kinds[kind].model_validate({**given, "type": kind})

    return PlainValidator(read)


def _choice(kinds: Mapping[str, type[Written]]) -> str:
    return "must be " + " or ".join(f"'{kind}'" for kind in kinds)


def _at_type(problem: PydanticCustomError) -> ValidationError:
    details = InitErrorDetails(type=problem, loc=("type",), input=None)
    return ValidationError.from_exception_data("kind", [details])
