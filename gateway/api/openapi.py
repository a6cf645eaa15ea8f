"""What the API's own documentation says of bodies that are parsed by hand, and of errors."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from fastapi import FastAPI
from pydantic import BaseModel

ERROR_BODY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
        }
    },
}

ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": meaning, "content": {"application/json": {"schema": ERROR_BODY}}}
    for status, meaning in {
        400: "the request is wrong; `param` says where",
        401: "there is no API key, or a wrong one",
        403: "the API key is not for this model",
        404: "there is no such thing",
        405: "the method is not one of those in `Allow`",
        408: "the body did not arrive in time",
        413: "the body is too large",
        415: "the body is not said to be JSON",
        429: "the API key's own limits are reached; `retry-after` says when to come back",
        500: "our mistake, not to be tried again",
        503: "too much to do, or no worker for a part of the model; `retry-after` says when",
    }.items()
}
"""What any route may answer instead."""


def body_schema(
    model: type[BaseModel], headers: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The documentation of a route whose JSON body is read as `model`, with its `headers`."""
    schema = model.model_json_schema()
    inlined = _inlined(schema, schema.pop("$defs", {}))
    body = {"required": True, "content": {"application/json": {"schema": inlined}}}
    documented: dict[str, Any] = {"requestBody": body, "parameters": list(headers)}
    if "stream" in model.model_fields:
        stream = {"text/event-stream": {"schema": {"type": "string"}}}
        documented["responses"] = {"200": {"content": stream}}
    return documented


def describe_api(app: FastAPI) -> None:
    """Have the documentation tell what is so: no route ever answers 422."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        described = generate()
        for operations in described["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        return described

    app.openapi = openapi


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema with its references written out, as it has no cycles."""
    match node:
        case {"$ref": str(reference)}:
            return _inlined(definitions[reference.removeprefix("#/$defs/")], definitions)
        case dict():
            mapping = cast("dict[str, Any]", node)
            return {key: _inlined(value, definitions) for key, value in mapping.items()}
        case list():
            return [_inlined(item, definitions) for item in cast("list[Any]", node)]
        case _:
            return node
