"""/v1/messages, Anthropic's API, called in memory."""

import json
from typing import Any

import httpx
import pytest

from shared.errors import GenerationFailed, NoRoute
from tests.fakes import END, FakeGenerator, chat_text, tokens_of
from tests.gateway.conftest import in_memory

URL = "/v1/messages"
MESSAGES = [{"role": "user", "content": "hello"}]
HELLO = {"model": "acme/tiny", "max_tokens": 50, "messages": MESSAGES}


def says(text: str = f"Hi 😀!{END}", **changes: Any) -> FakeGenerator:
    return FakeGenerator(tokens_of(text), **changes)


async def post(generator: FakeGenerator, url: str = URL, **body: Any) -> httpx.Response:
    async with in_memory(generator) as client:
        return await client.post(url, json=HELLO | body)


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for frame in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert (body["type"], body["request_id"]) == ("error", response.headers["request-id"])
    assert response.headers["request-id"] == response.headers["x-request-id"]
    return body["error"]


async def test_a_whole_message():
    answer = await post(says(cached_tokens=4))
    body = answer.json()
    assert body.pop("id").startswith("msg_")
    prompt = len(chat_text().render(MESSAGES))
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "acme/tiny",
        "content": [{"type": "text", "text": "Hi 😀!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": prompt - 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": len(tokens_of(f"Hi 😀!{END}")),
        },
    }


async def test_a_stream_tells_the_same():
    events = events_of(await post(says(), stream=True))
    types = [event["type"] for event in events]
    assert types[:2] == ["message_start", "content_block_start"]
    assert types[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(event["delta"]["text"] for event in events[2:-3]) == "Hi 😀!"
    whole = (await post(says())).json()
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"]
    assert events[-2]["usage"] == whole["usage"]


async def test_the_stop_sequence_that_ended_it_is_named():
    body = (await post(says("one two three"), stop_sequences=["three", "two"])).json()
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "two")
    assert body["content"][0]["text"] == "one "


async def test_the_budget_ends_it():
    body = (await post(says(), max_tokens=2)).json()
    assert (body["stop_reason"], body["content"][0]["text"]) == ("max_tokens", "Hi")


async def test_a_stream_that_fails_says_so_in_an_error_event():
    failing = says("Hi", failure=GenerationFailed("worker_lost", "blocks 8:16 were lost"))
    *_, last = events_of(await post(failing, stream=True))
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
    assert "8:16" in last["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "kind", "words"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"model": "x"}, 404, "not_found_error", "does not exist"),
        (
            {"messages": [{"role": "user", "content": "a" * 200}]},
            400,
            "invalid_request_error",
            "prompt is too long: ",
        ),
        ({"stop_sequences": ["a"] * 17}, 400, "invalid_request_error", "stop_sequences"),
    ],
)
async def test_errors_have_anthropic_s_shape(
    body: dict[str, Any], status: int, kind: str, words: str
):
    answer = await post(says(), **body)
    assert answer.status_code == status
    assert error_of(answer)["type"] == kind
    assert words in error_of(answer)["message"]


async def test_no_worker_is_told_so_that_sdks_come_back():
    answer = await post(FakeGenerator(failure=NoRoute("8:16")), stream=True)
    assert (answer.status_code, error_of(answer)["type"]) == (503, "overloaded_error")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_body_that_cannot_be_read_is_told_in_the_same_shape():
    async with in_memory(says()) as client:
        answer = await client.post(URL, content=b"{", headers={"content-type": "application/json"})
    assert error_of(answer)["type"] == "invalid_request_error"


async def test_what_has_no_effect_is_named():
    answer = await post(says(), metadata={"user_id": "u"}, context_management={})
    assert answer.headers["x-ignored-params"] == "context_management, metadata"


async def test_the_tokens_of_a_prompt_are_counted_without_an_answer():
    generator = says()
    body = {"model": "acme/tiny", "messages": [{"role": "user", "content": "a" * 200}]}
    async with in_memory(generator) as client:
        answer = await client.post(f"{URL}/count_tokens", json=body)
    assert answer.json() == {"input_tokens": len(chat_text().render(body["messages"]))}
    assert not generator.calls


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_with_the_same_key_gets_the_same_message(stream: bool):
    generator, key, body = says(), {"idempotency-key": "k"}, HELLO | {"stream": stream}
    async with in_memory(generator) as client:
        first = await client.post(URL, json=body, headers=key)
        second = await client.post(URL, json=body, headers=key)
        other = await client.post(URL, json=body | {"metadata": {"user_id": "b"}}, headers=key)
    assert first.text == second.text
    assert len(generator.calls) == 1
    assert second.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["type"]) == (400, "error")
