"""Lists in pages, as OpenAI's SDKs go through them. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from gateway.api.written import first_mistake
from shared.errors import RequestError


class Paging(BaseModel):
    """Which page of a list is asked for; by default the newest come first."""

    after: str | None = None
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """What a query asks for. Raises RequestError."""
        try:
            return cls.model_validate(dict(query))
        except ValidationError as error:
            raise first_mistake(error) from error

    def page(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The page of `items`, which are in the order they came. Raises RequestError."""
        items = items if self.order == "asc" else items[::-1]
        ids = [item["id"] for item in items]
        if self.after is not None and self.after not in ids:
            sentence = "'after' is the id of no item of this list."
            raise RequestError(sentence, param="after", reason="invalid_value")
        begin = 0 if self.after is None else ids.index(self.after) + 1
        shown = items[begin : begin + self.limit]
        return {
            "object": "list",
            "data": list(shown),
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": begin + self.limit < len(items),
        }
