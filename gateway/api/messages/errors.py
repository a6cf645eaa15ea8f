"""Errors as Anthropic's SDKs want them: the envelope, and the types that go with each status. Pure.

https://docs.anthropic.com/en/api/errors
"""

import re
from typing import Any, Final

from gateway.api.errors import Failure

ANTHROPIC_PATH: Final = "/v1/messages"

TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
TOO_LONG: Final = "context_length_exceeded"


def as_anthropic(failure: Failure, request_id: str) -> Failure:
    """The same failure in Anthropic's envelope."""
    told = failure.body["error"]
    default = "api_error" if failure.status >= 500 else "invalid_request_error"
    error = {"type": TYPES.get(failure.status, default), "message": _message(told)}
    body = {"type": "error", "error": error, "request_id": request_id}
    return Failure(failure.status, body, failure.headers)


def _message(told: dict[str, Any]) -> str:
    """Agents know by these words when to make their conversation shorter."""
    message = str(told["message"])
    if told["code"] == TOO_LONG and len(numbers := re.findall("[0-9]+", message)) == 2:
        most, given = numbers
        return f"prompt is too long: {given} tokens > {most} maximum"
    return message
