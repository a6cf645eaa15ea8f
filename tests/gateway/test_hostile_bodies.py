"""Bodies that people and machines send in error or in malice: each a 4xx that says why, at once."""

import json
from typing import Any

import pytest

from tests.fakes import END, FakeGenerator, tokens_of
from tests.gateway.conftest import in_memory

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
POSTS = (CHAT, TEXT, "/tokenize", "/detokenize", "/v1/responses", "/v1/messages")
HELLO: dict[str, Any] = {"model": "acme/tiny", "messages": [{"role": "user", "content": "hello"}]}
JSON = {"content-type": "application/json"}


async def send(path: str, raw: bytes, headers: dict[str, str] | None = None):
    async with in_memory(FakeGenerator(tokens_of(f"hi{END}"))) as client:
        return await client.post(path, content=raw, headers=headers or JSON)


def raw(**body: Any) -> bytes:
    return json.dumps(HELLO | body).encode()


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return b'{"model": "acme/tiny", "x": %s%s}' % (
        opening.encode() * depth,
        closing.encode() * depth,
    )


BODIES = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "no object": (b"[1]", 400),
    "not UTF-8": (b'{"model": "\xff"}', 400),
    "a lone surrogate": (b'{"model": "\\ud800"}', 400),
    "a lone surrogate as a key": (b'{"\\ud800": 1}', 400),
    "NaN": (b'{"model": "a", "temperature": NaN}', 400),
    "infinity": (b'{"model": "a", "temperature": -Infinity}', 400),
    "a number beyond doubles": (b'{"model": "a", "temperature": 1e999}', 400),
    "a number of 5000 digits": (b'{"model": "a", "n": %s}' % (b"9" * 5000), 400),
    "a depth bomb": (nested(100_000), 400),
    "a deep object": (nested(70), 400),
    "unclosed depth": (b"[" * 1_000_000, 400),
    "nine megabytes": (b'{"model": "%s"}' % (b"a" * 9_000_000), 413),
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", BODIES)
async def test_a_body_that_is_no_sane_json_is_refused(path: str, kind: str):
    body, status = BODIES[kind]
    response = await send(path, body)
    assert response.status_code == status
    assert response.json()["error"]["message"]
    assert len(response.content) < 2000, "what was sent is not sent back"


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_what_is_not_said_to_be_json_is_415(path: str, headers: dict[str, str]):
    assert (await send(path, raw(), headers)).status_code == 415


PARAMETERS: dict[str, Any] = {
    "a huge n": {"n": 10**18},
    "a negative n": {"n": -1},
    "a bias for ten thousand tokens": {"logit_bias": {str(i): 1 for i in range(10_000)}},
    "a bias beyond bounds": {"logit_bias": {"1": 1e300}},
    "a thousand stops": {"stop": ["a"] * 1000},
    "a seed beyond int64": {"seed": 2**63},
    "a temperature that is true": {"temperature": True},
    "a number as text": {"max_tokens": "5"},
    "half a token": {"max_tokens": 1.5},
    "a model that is a list": {"model": ["acme/tiny"]},
    "a name of a megabyte": {"model": "a" * 1_000_000},
    "logprobs for all": {"logprobs": True, "top_logprobs": 10**9},
    "no role": {"messages": [{"content": "a"}]},
    "messages that are a map": {"messages": {"role": "user"}},
    "a schema that refers to itself without end": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "strict": True, "schema": {"$ref": "#"}},
        }
    },
    "a regular expression of brackets": {
        "structured_outputs": {"regex": "(" * 20_000 + "a" + ")" * 20_000}
    },
    "a grammar of nonsense": {"structured_outputs": {"grammar": "start: ("}},
}


@pytest.mark.parametrize("kind", PARAMETERS)
async def test_a_parameter_beyond_reason_is_a_400_that_names_it(kind: str):
    response = await send(CHAT, raw(**PARAMETERS[kind]))
    assert response.status_code == 400, response.text[:500]
    error = response.json()["error"]
    assert error["param"].split(".")[0].split("[")[0] in PARAMETERS[kind]
    assert len(error["message"]) <= 1000
