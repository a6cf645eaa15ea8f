"""What all requests are made of, and the one error that a request's first mistake makes. Pure.

The rules are OpenAI's: null is absent, 5.0 is an integer, "5" is not, booleans are no numbers.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from shared.errors import RequestError


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Written(BaseModel):
    """Anything people write; keys we do not know are left alone."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


Whole = Annotated[int, BeforeValidator(_whole)]


def first_mistake(error: ValidationError) -> RequestError:
    """The one mistake that a client is told of, without what it wrote."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = _path(first["loc"])
    kind = first["type"]
    problem = first["msg"].replace("Input should", "should", 1)
    if kind == "sentence":
        return RequestError(problem, param=param, reason="invalid_value")
    if kind == "missing":
        sentence = f"Missing required parameter: '{param}'."
        return RequestError(sentence, param=param, reason="missing_required_parameter")
    word, reason = (
        ("type", "invalid_type") if kind.endswith("_type") else ("value", "invalid_value")
    )
    return RequestError(f"Invalid {word} for '{param}': {problem}.", param=param, reason=reason)


def _path(location: tuple[int | str, ...]) -> str:
    """OpenAI's way to write a place: `messages[0].content[1].type`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".")
