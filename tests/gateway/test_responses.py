"""/v1/responses called in memory: created, streamed, read again, gone on from."""

import json
import re
from typing import Any

import httpx
import pytest

from gateway.store import MemoryStore, StoreError
from shared.errors import GenerationFailed, NoRoute
from tests.fakes import END, FakeGenerator, chat_text, tokens_of
from tests.gateway.conftest import in_memory

URL = "/v1/responses"
HELLO = {"model": "acme/tiny", "input": "hello"}


def says(text: str = f"Hi 😀!{END}", **changes: Any) -> FakeGenerator:
    return FakeGenerator(tokens_of(text), **changes)


async def post(generator: FakeGenerator, url: str = URL, **body: Any) -> httpx.Response:
    async with in_memory(generator) as client:
        return await client.post(url, json=HELLO | body)


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    events: list[dict[str, Any]] = []
    for frame in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    output = [item | {"id": ""} for item in response["output"]]
    return response | {"id": "", "created_at": 0, "completed_at": 0, "output": output}


async def test_a_whole_response():
    answer = await post(says(), metadata={"a": "b"}, temperature=0.5)
    body = answer.json()
    assert body["id"].startswith("resp_")
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", "acme/tiny")
    assert text_of(body) == "Hi 😀!"
    assert (body["metadata"], body["temperature"], body["store"]) == ({"a": "b"}, 0.5, True)
    prompt = len(chat_text().render([{"role": "user", "content": "hello"}]))
    made = len(tokens_of(f"Hi 😀!{END}"))
    assert body["usage"] == {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + made,
    }


async def test_a_stream_ends_with_the_response_that_is_given_whole():
    events = events_of(await post(says(), stream=True))
    types = [event["type"].removeprefix("response.") for event in events]
    assert types[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert types[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert set(types[4:-4]) == {"output_text.delta"}
    assert "".join(event["delta"] for event in events[4:-4]) == "Hi 😀!"
    whole = (await post(says())).json()
    assert without_ids(events[-1]["response"]) == without_ids(whole)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_cut_by_its_budget_is_incomplete(stream: bool):
    answer = await post(says(), max_output_tokens=2, stream=stream)
    body = events_of(answer)[-1]["response"] if stream else answer.json()
    assert (body["status"], text_of(body)) == ("incomplete", "Hi")
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"


async def test_a_stream_that_fails_says_so_in_its_last_event():
    failing = says("Hi", failure=GenerationFailed("worker_lost", "blocks 8:16 were lost"))
    *_, last = events_of(await post(failing, stream=True))
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": "worker_lost", "message": "blocks 8:16 were lost"}
    assert last["response"]["output"][0]["status"] == "incomplete"


async def test_what_fails_before_the_first_token_keeps_its_status():
    answer = await post(FakeGenerator(failure=NoRoute("8:16")), stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker_available")


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"input": None}, 400, "input", "missing_required_parameter"),
        ({"model": "x"}, 404, "model", "model_not_found"),
        ({"input": "a" * 200}, 400, "input", "context_length_exceeded"),
        ({"max_output_tokens": "5"}, 400, "max_output_tokens", "invalid_type"),
        ({"top_logprobs": 21}, 400, "top_logprobs", "invalid_value"),
        ({"previous_response_id": "resp_x"}, 400, "previous_response_id", None),
        ({"background": True}, 400, "background", "unsupported_parameter"),
    ],
)
async def test_errors_are_openai_s_and_name_places_in_this_request(
    body: dict[str, Any], status: int, param: str, code: str | None
):
    answer = await post(says(), **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert error["code"] == (code or "previous_response_not_found")


async def test_what_has_no_effect_is_named():
    async with in_memory(says()) as client:
        body = HELLO | {"user": "ann", "text": {"verbosity": "low"}}
        answer = await client.post(URL, json=body, headers={"x-resumable": "1"})
    assert answer.headers["x-ignored-params"] == "text.verbosity, x-resumable, user"
    assert answer.headers["x-model-revision"] == "abc123"


async def test_a_response_can_be_read_again_and_forgotten():
    async with in_memory(says()) as client:
        made = (await client.post(URL, json=HELLO)).json()
        one = f"{URL}/{made['id']}"
        assert (await client.get(one)).json() == made
        assert (await client.get(one, params={"stream": "true"})).status_code == 400
        assert (await client.post(f"{one}/cancel")).status_code == 400
        gone = {"id": made["id"], "object": "response", "deleted": True}
        assert (await client.delete(one)).json() == gone
        for answer in (await client.get(one), await client.delete(one)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                404,
                "response_not_found",
            )


async def test_a_response_is_its_own_caller_s():
    async with in_memory(says()) as client:
        ann, bob = ({"Authorization": f"Bearer {name}"} for name in ("ann", "bob"))
        made = (await client.post(URL, json=HELLO, headers=ann)).json()
        one = f"{URL}/{made['id']}"
        assert (await client.get(one, headers=ann)).status_code == 200
        assert (await client.get(one, headers=bob)).status_code == 404


async def test_nothing_is_kept_of_a_response_that_is_not_to_be_stored():
    async with in_memory(says()) as client:
        made = (await client.post(URL, json=HELLO | {"store": False})).json()
        assert made["store"] is False
        assert (await client.get(f"{URL}/{made['id']}")).status_code == 404


class BrokenStore(MemoryStore):
    async def put(self, key: str, value: bytes, *, seconds: float) -> None:
        raise StoreError("it is away")


@pytest.mark.parametrize("changes", [{"responses": BrokenStore(1 << 20)}, {"response_seconds": 0}])
async def test_an_answer_that_cannot_be_kept_is_given_and_says_so(changes: dict[str, Any]):
    async with in_memory(says(), **changes) as client:
        made = (await client.post(URL, json=HELLO)).json()
    assert (made["status"], made["store"]) == ("completed", False)


async def test_a_conversation_goes_on_from_a_response_even_when_those_before_are_gone():
    generator = says(f"Hi{END}")
    async with in_memory(generator, responses=MemoryStore(1 << 20)) as client:
        first = (await client.post(URL, json=HELLO | {"instructions": "Be nice."})).json()
        then = {"input": "and?", "previous_response_id": first["id"]}
        second = (await client.post(URL, json=HELLO | then)).json()
        await client.delete(f"{URL}/{first['id']}")
        then = {"input": "so?", "previous_response_id": second["id"]}
        await client.post(URL, json=HELLO | then)
    said = [("user", "hello"), ("assistant", "Hi"), ("user", "and?"), ("assistant", "Hi")]
    messages = [{"role": role, "content": text} for role, text in (*said, ("user", "so?"))]
    assert generator.calls[-1]["prompt"] == chat_text().render(messages)
    assert second["previous_response_id"] == first["id"]


async def test_the_input_of_a_response_is_listed_in_pages():
    async with in_memory(says(f"Hi{END}")) as client:
        first = (await client.post(URL, json=HELLO)).json()
        then = {"input": "and?", "previous_response_id": first["id"]}
        second = (await client.post(URL, json=HELLO | then)).json()
        listed = f"{URL}/{second['id']}/input_items"
        page = (await client.get(listed, params={"limit": 2})).json()
        assert [item["content"][0]["text"] for item in page["data"]] == ["and?", "Hi"]
        assert (page["object"], page["has_more"]) == ("list", True)
        rest = (await client.get(listed, params={"after": page["last_id"]})).json()
        assert [item["content"][0]["text"] for item in rest["data"]] == ["hello"]
        assert (rest["first_id"], rest["has_more"]) == (rest["last_id"], False)
        assert (await client.get(listed, params={"after": "x"})).status_code == 400
        for limit in ("0", "many"):
            assert (await client.get(listed, params={"limit": limit})).status_code == 400


async def test_the_tokens_of_an_input_are_counted_without_an_answer():
    generator = says()
    body = (await post(generator, f"{URL}/input_tokens", input="a" * 200)).json()
    prompt = chat_text().render([{"role": "user", "content": "a" * 200}])
    assert body == {"object": "response.input_tokens", "input_tokens": len(prompt)}
    assert not generator.calls


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_with_the_same_key_gets_the_same_response(stream: bool):
    generator, key, body = says(), {"Idempotency-Key": "k"}, HELLO | {"stream": stream}
    async with in_memory(generator) as client:
        first = await client.post(URL, json=body, headers=key)
        second = await client.post(URL, json=body, headers=key)
        other = await client.post(URL, json=body | {"metadata": {"a": "b"}}, headers=key)
    assert without_times(first.text) == without_times(second.text)
    assert len(generator.calls) == 1
    assert second.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reuse")


def without_times(text: str) -> str:
    return re.sub(r'"completed_at": ?\d+', "", text)
