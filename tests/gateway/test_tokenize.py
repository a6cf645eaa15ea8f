"""POST /tokenize and /detokenize: what vLLM answers, by the model's own tokenizer."""

from typing import Any

import pytest

from tests.fakes import END, FakeGenerator, chat_text, tokens_of
from tests.gateway.conftest import in_memory

MESSAGES = [{"role": "user", "content": "hé"}]


async def post(path: str, **body: Any):
    async with in_memory(FakeGenerator()) as client:
        return await client.post(path, json=body)


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize", "/v1//tokenize/"])
async def test_a_text_becomes_tokens(path: str):
    assert (await post(path, model="acme/tiny", prompt="hé")).json() == {
        "count": 3,
        "max_model_len": 128,
        "tokens": tokens_of("hé"),
        "token_strs": None,
    }


async def test_tokens_are_named_where_asked():
    named = (await post("/tokenize", prompt=f"h é{END}", return_token_strs=True)).json()
    assert named["token_strs"] == ["h", "Ġ", "Ã", "©", END]


async def test_a_conversation_costs_what_a_chat_completion_says():
    body = (await post("/tokenize", messages=MESSAGES)).json()
    assert body["tokens"] == list(chat_text().render(MESSAGES))


@pytest.mark.parametrize("path", ["/detokenize", "/v1/detokenize"])
async def test_tokens_become_text_again_special_ones_too(path: str):
    assert (await post(path, tokens=tokens_of(f"hé{END}"))).json() == {"prompt": f"hé{END}"}


async def test_nothing_is_nothing():
    assert (await post("/tokenize", prompt="")).json()["count"] == 0
    assert (await post("/detokenize", tokens=[])).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, 400, "prompt"),
        ("/tokenize", {"prompt": 5}, 400, "prompt"),
        ("/tokenize", {"messages": [{"role": "king", "content": ""}]}, 400, "messages[0].role"),
        ("/tokenize", {"prompt": "a", "model": "x"}, 404, "model"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": [300]}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": ["1"]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": "1"}, 400, "tokens"),
    ],
)
async def test_a_mistake_is_named(path: str, body: dict[str, Any], status: int, param: str):
    response = await post(path, **body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
