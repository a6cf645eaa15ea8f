"""What the API's own documentation says of bodies that are parsed by hand. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel


def body_schema(
    model: type[BaseModel], headers: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The documentation of a route whose JSON body is read as `model`, with its `headers`."""
    schema = model.model_json_schema()
    inlined = _inlined(schema, schema.pop("$defs", {}))
    body = {"required": True, "content": {"application/json": {"schema": inlined}}}
    return {"requestBody": body, "parameters": list(headers)}


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
