from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from gateway.api.middleware import LastResort, OneForm, RequestId


async def get(app: ASGIApp, path: str = "/") -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get(path)


async def echo_path(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def half_an_answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ValueError("in the middle")


@pytest.mark.parametrize(
    ("path", "seen"), [("/", "/"), ("//", "/"), ("/v1//models/", "/v1/models"), ("/a/b", "/a/b")]
)
async def test_paths_come_in_one_form(path: str, seen: str):
    assert (await get(OneForm(echo_path), path)).text == seen


async def test_each_request_has_an_id_of_its_own():
    app = RequestId(echo_path)
    assert (await get(app)).headers["x-request-id"] != (await get(app)).headers["x-request-id"]


async def test_a_crash_in_mid_answer_breaks_the_connection():
    with capture_logs(), pytest.raises(ValueError, match="in the middle"):
        await get(RequestId(LastResort(half_an_answer)))


@pytest.mark.parametrize("middleware", [RequestId, OneForm, LastResort])
async def test_what_is_not_http_passes_untouched(middleware: Any):
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    await middleware(app)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]
