"""From errors to HTTP: one table, one body, one set of handlers."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.store import StoreError
from shared.errors import BrigadeError, GenerationFailed, NoRoute, RequestError

log = structlog.get_logger()

MAX_MESSAGE_CHARACTERS: Final = 1000

MAX_RETRY_SECONDS: Final = 60
"""SDKs do not keep to a longer one."""


@dataclass(frozen=True)
class Rule:
    """How an error looks over HTTP.

    `retry_seconds` is the longest retry-after; SDKs keep to it up to 60. `is_final` tells them not
    to retry: the same would happen again, or tokens were already spent.
    """

    status: int
    type: str
    code: str | None = None
    retry_seconds: int = 0
    is_final: bool = False
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


INTERNAL: Final = Rule(500, "server_error", "internal_error", is_final=True)

RULES: Final[dict[type[Exception], Rule]] = {
    NoRoute: Rule(503, "service_unavailable_error", NoRoute.code, retry_seconds=30),
    StoreError: Rule(503, "service_unavailable_error", StoreError.code, retry_seconds=10),
    GenerationFailed: Rule(503, "server_error", retry_seconds=10, is_final=True),
}
"""By class; anything else that is no RequestError is INTERNAL."""

STATUS_RULES: Final[dict[int, Rule]] = {
    401: Rule(401, "invalid_request_error", headers={"www-authenticate": "Bearer"}),
    408: Rule(408, "invalid_request_error", "request_timeout"),
    413: Rule(413, "invalid_request_error", "request_too_large"),
    429: Rule(429, "requests", "rate_limit_exceeded", retry_seconds=10),
    503: Rule(503, "service_unavailable_error", "server_is_overloaded", retry_seconds=10),
}
"""By status, for RequestErrors; their own `reason` comes before `code`. Others: invalid_request."""


@dataclass(frozen=True)
class Failure:
    """An error ready to be sent."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def response(self) -> Response:
        """The answer to a request that has none yet."""
        return JSONResponse(self.body, self.status, self.headers)


def describe(error: Exception, request_id: str, *, jitter: float) -> Failure:
    """The answer to `error`. Pure: `jitter` in [0, 1] spreads the clients' next attempts."""
    rule = rule_of(error)
    message, param, code = str(error), None, rule.code
    if rule is INTERNAL:
        message = f"The server had an error while processing your request ({request_id})."
    if isinstance(error, RequestError | GenerationFailed):
        code = error.reason or code
    if isinstance(error, RequestError):
        param = error.param
    body = error_body(message, rule.type, param, code)
    return Failure(rule.status, body, {**rule.headers, **headers_of(error, rule, jitter)})


def rule_of(error: Exception) -> Rule:
    """The table's row for `error`."""
    if isinstance(error, RequestError):
        rule = STATUS_RULES.get(error.status, Rule(error.status, "invalid_request_error"))
        return replace(rule, type=error.kind or rule.type)
    return next((rule for kind, rule in RULES.items() if isinstance(error, kind)), INTERNAL)


def error_body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    """OpenAI's error object. SDKs lose the message of any other shape; all four keys are owed."""
    short = message[:MAX_MESSAGE_CHARACTERS]
    return {"error": {"message": short, "type": kind, "param": param, "code": code}}


def headers_of(error: Exception, rule: Rule, jitter: float) -> dict[str, str]:
    """When to come back: at the time that is known, or a little later, else by the rule."""
    if isinstance(error, RequestError) and error.retry_seconds is not None:
        seconds = error.retry_seconds * (1 + jitter / 4)
        return {"retry-after": str(min(MAX_RETRY_SECONDS, math.ceil(seconds)))}
    return retry_headers(rule, jitter)


def retry_headers(rule: Rule, jitter: float) -> dict[str, str]:
    """When to come back, from half of the rule's seconds to all of them, and whether at all."""
    headers: dict[str, str] = {}
    if rule.retry_seconds:
        headers["retry-after"] = str(max(1, round(rule.retry_seconds * (1 + jitter) / 2)))
    if rule.is_final:
        headers["x-should-retry"] = "false"
    return headers


def report(error: Exception, request_id: str) -> Failure:
    """Describe an error to the client, and to the operator what the operator should know."""
    failure = describe(error, request_id, jitter=random.random())
    if failure.status == 500:
        log.error("request_crashed", request=request_id, exc_info=error)
    elif not isinstance(error, RequestError):
        log.warning("request_failed", request=request_id, reason=str(error))
    return failure


def request_id_of(request: Request) -> str:
    """The id that stands in this request's x-request-id."""
    return str(getattr(request.state, "request_id", "req_unknown"))


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error a route raises on purpose, and unknown URLs and methods."""

    async def answer(request: Request, error: Exception) -> Response:
        return report(error, request_id_of(request)).response()

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405 and request.method == "OPTIONS":
            return Response(status_code=204, headers=error.headers)
        message = _http_message(request, error)
        body = error_body(message, "invalid_request_error", None, None)
        return JSONResponse(body, error.status_code, error.headers)

    async def answer_mistake(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await answer(request, _of_parameter(error))

    app.add_exception_handler(BrigadeError, answer)
    app.add_exception_handler(RequestValidationError, answer_mistake)
    app.add_exception_handler(HTTPException, answer_http)


def _of_parameter(error: RequestValidationError) -> RequestError:
    """What FastAPI found wrong with a query or a path, in OpenAI's words."""
    first = error.errors()[0]
    param = ".".join(str(step) for step in first["loc"][1:])
    sentence = f"Invalid value for '{param}': {first['msg']}."
    return RequestError(sentence, param=param, reason="invalid_value")


def _http_message(request: Request, error: HTTPException) -> str:
    path = request.url.path[:200]
    if error.status_code == 404:
        return f"Invalid URL ({request.method} {path})"
    if error.status_code == 405:
        return f"Not allowed to {request.method} on {path}"
    return str(error.detail)
