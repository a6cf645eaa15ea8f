"""Who is let in over HTTP, to what, and what the others are told."""

from typing import Any

import httpx
import openai
import pytest

from gateway.key_ring import KeyRing
from gateway.keys import Key, digest_of, make_secret
from gateway.metrics import GatewayMetrics
from tests.fakes import END, FakeGenerator, tokens_of
from tests.gateway.conftest import in_memory, served, services_around

SECRET, LIMITED = make_secret(), make_secret()
RING = KeyRing(
    given=[
        Key(name="alice", digest=digest_of(SECRET)),
        Key(name="bob", digest=digest_of(LIMITED), models=["acme/huge"]),
    ]
)
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "acme/tiny", "messages": [{"role": "user", "content": "hello"}]}


def door(**changes: Any) -> httpx.AsyncClient:
    generator = FakeGenerator(tokens_of(f"hi{END}"))
    return in_memory(generator, keys=RING, **changes)


async def ask(method: str, path: str, headers: dict[str, str] | None = None, **changes: Any):
    async with door(**changes) as client:
        body = HELLO if method == "POST" else None
        return await client.request(method, path, json=body, headers=headers or {})


@pytest.mark.parametrize("path", ["/health", "/ready", "/version", "/docs", "/openapi.json"])
async def test_what_probes_ask_needs_no_key(path: str):
    assert (await ask("GET", path)).status_code == 200


@pytest.mark.parametrize("path", ["/health/", "/version//"])
async def test_a_path_in_another_form_is_as_open(path: str):
    assert (await ask("GET", path)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", "//v1//chat/completions/"),
        ("GET", "/v1/models"),
        ("HEAD", "/v1/models"),
        ("GET", "/swarm"),
        ("GET", "/health/x"),
        ("GET", "/v1/../v1/models"),
        ("GET", "/no/such/path"),
    ],
)
async def test_everything_else_does(method: str, path: str):
    response = await ask(method, path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"].startswith("req_")
    if method != "HEAD":
        error = response.json()["error"]
        assert error["message"].startswith("You didn't provide an API key")
        assert (error["type"], error["code"]) == ("invalid_request_error", None)


async def test_a_wrong_key_is_told_so_masked():
    response = await ask("POST", CHAT, {"authorization": "Bearer sk-abcdefghijklmnopqrstuvyz"})
    assert response.status_code == 401
    assert response.json()["error"] == {
        "message": "Incorrect API key provided: sk-ab***yz.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {SECRET}"}, {"api-key": SECRET}, {"x-api-key": SECRET}],
)
async def test_a_right_key_opens(headers: dict[str, str]):
    assert (await ask("POST", CHAT, headers)).status_code == 200


async def test_a_browser_may_ask_first_without_a_key_and_read_why_it_was_refused():
    preflight = {
        "origin": "http://web.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-stainless-lang",
    }
    async with door() as client:
        asked = await client.options(CHAT, headers=preflight)
        refused = await client.post(CHAT, headers={"origin": "http://web.example"}, json=HELLO)
    assert asked.status_code == 200
    assert "authorization" in asked.headers["access-control-allow-headers"]
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(("is_open", "status"), [(True, 200), (False, 401)])
async def test_metrics_are_open_only_where_the_operator_says_so(is_open: bool, status: int):
    assert (await ask("GET", "/metrics", has_open_metrics=is_open)).status_code == status


async def test_a_model_that_a_key_is_not_for_is_neither_listed_nor_served():
    headers = {"x-api-key": LIMITED}
    assert (await ask("GET", "/v1/models", headers)).json()["data"] == []
    for method, path in (("POST", CHAT), ("GET", "/v1/models/acme/tiny"), ("GET", "/swarm")):
        response = await ask(method, path, headers)
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "model_access_denied"


async def test_who_was_not_let_in_is_counted():
    metrics = GatewayMetrics()
    await ask("POST", CHAT, metrics=metrics)
    counted = metrics.registry.get_sample_value(
        "brigade_gateway_http_requests_total", {"route": "none", "status": "401"}
    )
    assert counted == 1


async def test_the_sdk_sees_its_own_error_classes():
    services = services_around(FakeGenerator(tokens_of(f"hi{END}")), keys=RING)
    async with served(services) as (url, _):
        for secret, error in (("sk-wrong", openai.AuthenticationError), (SECRET, None)):
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=secret) as sdk:
                if error is None:
                    assert (await sdk.chat.completions.create(**HELLO)).choices
                else:
                    with pytest.raises(error):
                        await sdk.models.list()
