"""A request's body as bounded JSON, and whether its client is still there."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar, cast

import msgspec
from starlette.requests import ClientDisconnect, Request

from shared.errors import RequestError

MAX_DEPTH: Final = 64
BODY_TIMEOUT_SECONDS: Final = 60.0

T = TypeVar("T")


async def read_object(request: Request, max_bytes: int) -> dict[str, Any]:
    """The JSON object in the body. Raises RequestError 400, 408, 413 or 415."""
    check_headers(request.headers.get("content-type"), request.headers.get("content-encoding"))
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            return parse_object(await _read(request, max_bytes))
    except TimeoutError as error:
        raise RequestError("The request body did not arrive in time.", status=408) from error


def check_headers(content_type: str | None, content_encoding: str | None) -> None:
    """Raises RequestError 415 unless the body is said to be plain JSON, or nothing is said.

    Forms are refused also because browsers send them to any address without asking it.
    """
    media = (content_type or "").partition(";")[0].strip().lower()
    if media not in ("", "application/json") and not media.endswith("+json"):
        raise RequestError(
            "The body must be JSON: send the header `Content-Type: application/json`.",
            reason="unsupported_media_type",
            status=415,
        )
    if (content_encoding or "identity").strip().lower() != "identity":
        raise RequestError(
            "Compressed bodies are not accepted: send it without Content-Encoding.",
            reason="unsupported_media_type",
            status=415,
        )


def parse_object(raw: bytes) -> dict[str, Any]:
    """Strict JSON: no NaN, no lone surrogates, no numbers a double cannot hold. Pure.

    Raises RequestError, without repeating what was sent.
    """
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RequestError("We could not parse the JSON body of your request.") from error
    if not isinstance(value, dict):
        raise RequestError("The body of your request must be a JSON object.")
    body = cast(dict[str, Any], value)
    _check_depth(body)
    return body


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, whose body has been read.

    Cancels it and raises ClientDisconnect when the client hangs up first: nothing else would,
    a handler runs on until it answers.
    """
    working = asyncio.create_task(work)
    hangup = asyncio.create_task(_hangup(request))
    try:
        await asyncio.wait({working, hangup}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        hangup.cancel()
        await asyncio.wait({working, hangup})


async def _hangup(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(f"The request body is larger than {max_bytes} bytes.", status=413)


def _check_depth(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = [child for node in level for child in _children(node)]
        level = [child for child in inner if isinstance(child, dict | list)]
        if not level:
            return
    raise RequestError("We could not parse the JSON body of your request.")


def _children(node: Any) -> Any:
    return cast(dict[str, Any], node).values() if isinstance(node, dict) else node
