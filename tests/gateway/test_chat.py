"""The application called in memory: what each request is answered, whole or streamed."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.admission import Admission
from shared.errors import GenerationFailed, NoRoute
from shared.wire.messages import Grammar, TokenLogprobs
from tests.fakes import END, FakeGenerator, chat_text, tokens_of
from tests.gateway.conftest import in_memory

HELLO = {"model": "acme/tiny", "messages": [{"role": "user", "content": "hello"}]}
URL = "/v1/chat/completions"


def says(text: str = f"Hi 😀!{END}", **changes: Any) -> FakeGenerator:
    return FakeGenerator(tokens_of(text), **changes)


async def post(generator: FakeGenerator, services: dict[str, Any] | None = None, **body: Any):
    async with in_memory(generator, **(services or {})) as client:
        return await client.post(URL, json=HELLO | body)


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert list(response.json()) == ["error"]
    return response.json()["error"]


def frames_of(response: httpx.Response) -> list[Any]:
    frames = response.text.removesuffix("\n\n").split("\n\n")
    payloads = [frame.removeprefix("data: ") for frame in frames if not frame.startswith(":")]
    assert payloads.pop() == "[DONE]"
    return list(map(json.loads, payloads))


def text_of(frames: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content", "") for frame in frames for choice in frame["choices"]
    )


# --- whole answers ---


async def test_an_answer_has_every_key_the_specification_requires():
    body = (await post(says())).json()
    assert re.fullmatch("chatcmpl-[A-Za-z0-9]{29}", body.pop("id"))
    assert re.fullmatch("fp_[0-9a-f]{10}", body.pop("system_fingerprint"))
    assert body.pop("created") > 1_700_000_000
    usage = body.pop("usage")
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert body == {
        "object": "chat.completion",
        "model": "acme/tiny",
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hi 😀!",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    }


async def test_usage_counts_the_templated_prompt_and_the_stop_id():
    usage = (await post(says(f"Hi{END}"))).json()["usage"]
    assert usage["prompt_tokens"] == len(chat_text().render(HELLO["messages"]))
    assert usage["completion_tokens"] == 3


@pytest.mark.parametrize("cached_tokens", [0, 4])
async def test_usage_tells_how_much_of_the_prompt_workers_still_had(cached_tokens: int):
    generator = says(cached_tokens=cached_tokens)
    whole = (await post(generator)).json()["usage"]
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last = frames_of(await post(generator, **asked))
    assert whole["prompt_tokens_details"]["cached_tokens"] == cached_tokens
    assert last["usage"] == whole


async def test_the_parameters_reach_the_generator():
    generator = says()
    await post(generator, temperature=0.5, top_p=0, seed=-7, max_tokens=5)
    (call,) = generator.calls
    sampling = call["sampling"]
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.0, -7)
    assert call["max_tokens"] == 5


async def test_without_a_seed_each_answer_has_its_own():
    generator = says()
    await post(generator)
    await post(generator)
    one, other = (call["sampling"].seed for call in generator.calls)
    assert one != other


async def test_the_budget_is_the_rest_of_the_context_when_more_or_nothing_is_asked_for():
    generator = says()
    room = 128 - len(chat_text().render(HELLO["messages"]))
    await post(generator)
    await post(generator, max_tokens=10**30)
    assert [call["max_tokens"] for call in generator.calls] == [room, room]


async def test_a_prompt_that_leaves_no_room_is_refused_in_the_words_agents_know():
    messages = [{"role": "user", "content": "x" * 200}]
    num_tokens = len(chat_text().render(messages))
    response = await post(says(), messages=messages)
    assert response.status_code == 400
    assert error_of(response) == {
        "message": "This model's maximum context length is 128 tokens. However, your messages "
        f"resulted in {num_tokens} tokens. Please reduce the length of the messages.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }


async def test_an_empty_answer_is_empty_text():
    assert (await post(says(END))).json()["choices"][0]["message"]["content"] == ""


async def test_ignored_parameters_are_named_and_others_refused():
    response = await post(says(), user="u", shoe_size=43)
    assert response.headers["x-ignored-params"] == "user, shoe_size"
    assert error_of(await post(says(), top_a=0.5))["code"] == "unsupported_parameter"


# --- how tokens are chosen, and how likely they were ---


def likely(text: str) -> FakeGenerator:
    """Says `text`, each token with logprobs and the token "!" beside it."""
    (other,) = tokens_of("!")
    told = {i: TokenLogprobs(-0.5, (i, other), (-0.5, -1.5)) for i in tokens_of(text)}
    return says(text, logprobs=told)


async def test_logprobs_have_the_true_bytes_of_each_token():
    response = await post(likely(f"a€{END}"), logprobs=True, top_logprobs=2)
    logprobs = response.json()["choices"][0]["logprobs"]
    assert logprobs["refusal"] is None
    assert [entry["bytes"] for entry in logprobs["content"]] == [[97], [0xE2], [0x82], [0xAC]]
    assert logprobs["content"][0] == {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": "!", "logprob": -1.5, "bytes": [33]},
        ],
    }
    assert logprobs["content"][1]["token"] == "\ufffd"


async def test_prompt_logprobs_are_told_as_vllm_tells_them():
    prompt = chat_text().render(HELLO["messages"])
    a, b = tokens_of("ab")
    second = TokenLogprobs(-3.0, (a, b), (-0.5, -1.5), rank=7)
    tied = TokenLogprobs(-0.5, (a, prompt[2]), (-0.5, -0.5), rank=1)
    rest = (TokenLogprobs(-9999.0, rank=300),) * (len(prompt) - 3)
    generator = says(prompt_logprobs=(second, tied, *rest))
    told = (await post(generator, prompt_logprobs=2)).json()["prompt_logprobs"]
    assert generator.calls[0]["sampling"].num_prompt_logprobs == 2
    assert len(told) == len(prompt)
    spelled = chat_text().vocabulary.bytes_of(prompt[1]).decode()
    assert told[:2] == [
        None,
        {
            str(prompt[1]): {"logprob": -3.0, "rank": 7, "decoded_token": spelled},
            str(a): {"logprob": -0.5, "rank": 1, "decoded_token": "a"},
            str(b): {"logprob": -1.5, "rank": 2, "decoded_token": "b"},
        },
    ]
    assert [(entry["logprob"], entry["rank"]) for entry in told[2].values()] == [(-0.5, 1)] * 2
    assert "prompt_logprobs" not in (await post(says())).json()


async def test_prompt_logprobs_are_refused_where_they_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
):
    streamed = await post(says(), prompt_logprobs=1, stream=True)
    assert (streamed.status_code, error_of(streamed)["param"]) == (400, "prompt_logprobs")
    num_tokens = len(chat_text().render(HELLO["messages"]))
    monkeypatch.setattr("gateway.api.logprobs.MAX_PROMPT_LOGPROBS", 3 * num_tokens - 1)
    many = await post(says(), prompt_logprobs=2)
    assert (many.status_code, error_of(many)["param"]) == (400, "prompt_logprobs")
    assert f"at most {num_tokens - 1} prompt tokens" in error_of(many)["message"]


async def test_each_chunk_has_the_logprobs_of_its_own_text():
    body: dict[str, Any] = {"logprobs": True, "stop": ["zz"]}
    response = await post(likely(f"a€z!{END}"), **body, stream=True)
    _, *chunks, finish = frames_of(response)
    assert finish["choices"][0]["logprobs"] is None
    told = [choice for chunk in chunks for choice in chunk["choices"]]
    for choice in told:
        raw = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"])
        assert raw.decode() == choice["delta"]["content"]
    whole = (await post(likely(f"a€z!{END}"), **body)).json()["choices"][0]["logprobs"]
    assert whole["content"] == [e for choice in told for e in choice["logprobs"]["content"]]


async def test_the_grammar_and_what_may_end_it_reach_the_generator():
    generator = says("{}" + END)
    schema = {"name": "a", "schema": {"type": "object"}, "strict": True}
    await post(generator, response_format={"type": "json_schema", "json_schema": schema})
    sampling = generator.calls[0]["sampling"]
    assert sampling.grammar == Grammar("json_schema", '{"type":"object"}')
    assert sampling.stop_ids == tuple(tokens_of(END))


async def test_a_grammar_in_llama_cpp_s_way_of_writing_is_turned_to_lark():
    generator = says("ab" + END)
    await post(generator, structured_outputs={"grammar": 'root ::= "a" "b"'})
    grammar = generator.calls[0]["sampling"].grammar
    assert grammar.kind == "lark"
    assert "start:" in grammar.text


@pytest.mark.parametrize(
    ("body", "param", "why"),
    [
        ({"regex": "(a"}, "structured_outputs.regex", "unclosed group"),
        ({"grammar": "start: nowhere"}, "structured_outputs.grammar", "nowhere"),
        ({"grammar": "root ::= ("}, "structured_outputs.grammar", ""),
        ({"json": '{"type": '}, "structured_outputs.json", "EOF"),
        ({"json": {"not": {}}}, "structured_outputs.json", "not"),
    ],
)
async def test_a_grammar_that_does_not_compile_is_400_with_the_reason(
    body: dict[str, Any], param: str, why: str
):
    response = await post(says(), structured_outputs=body)
    assert (response.status_code, error_of(response)["param"]) == (400, param)
    assert why in error_of(response)["message"]


@pytest.mark.parametrize(("strict", "status"), [(True, 400), (False, 200), (None, 200)])
async def test_only_a_strict_schema_is_refused_for_a_keyword_that_cannot_be_kept(
    strict: bool | None, status: int
):
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    wrapped = {"name": "a", "schema": schema, "strict": strict}
    form = {"type": "json_schema", "json_schema": wrapped}
    response = await post(says(), response_format=form)
    assert response.status_code == status
    if status == 400:
        assert error_of(response)["param"] == "response_format.json_schema.schema"
        assert "uniqueItems" in error_of(response)["message"]


@pytest.mark.parametrize("body", [{"logit_bias": {"300": 1}}, {"stop_token_ids": [300]}])
async def test_a_token_the_model_does_not_have_is_400(body: dict[str, Any]):
    response = await post(says(), **body)
    assert (response.status_code, error_of(response)["param"]) == (400, *body)


async def test_a_stop_token_id_ends_the_answer_unseen_and_eos_may_be_ignored():
    (a,) = tokens_of("a")
    (choice,) = (await post(says("hia!"), stop_token_ids=[a])).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("hi", "stop")
    (choice,) = (await post(says(f"a{END}b"), ignore_eos=True, max_tokens=3)).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", "length")


# --- streams ---


@pytest.mark.parametrize(
    "body", [{}, {"stop": ["😀"]}, {"max_tokens": 5}, {"max_tokens": 1}, {"stop": ["zz"]}]
)
async def test_the_concatenated_stream_is_the_whole_answer(body: dict[str, Any]):
    whole = (await post(says(), **body)).json()
    streamed = await post(says(), **body, stream=True, stream_options={"include_usage": True})
    *frames, finish, usage = frames_of(streamed)
    assert text_of(frames) == whole["choices"][0]["message"]["content"]
    assert finish["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert finish["choices"][0]["delta"] == {}
    assert usage["usage"] == whole["usage"]


async def test_a_stream_is_one_role_chunk_then_text_with_one_id():
    response = await post(says(), stream=True)
    role, *frames = frames_of(response)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert not any("role" in frame["choices"][0]["delta"] for frame in frames)
    assert len({(frame["id"], frame["created"], frame["model"]) for frame in [role, *frames]}) == 1


async def test_a_stream_has_the_headers_that_keep_proxies_from_holding_it():
    headers = (await post(says(), stream=True)).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"


async def test_no_worker_before_the_first_token_is_a_true_503():
    for stream in (False, True):
        response = await post(FakeGenerator(failure=NoRoute("blocks 8:16")), stream=stream)
        assert response.status_code == 503
        assert error_of(response)["code"] == "no_worker_available"
        assert "8:16" in error_of(response)["message"]
        assert 1 <= int(response.headers["retry-after"]) <= 60


async def test_a_failure_in_mid_stream_is_an_error_frame_and_no_finish():
    failing = says("Hi", failure=GenerationFailed("worker_lost", "blocks 8:16 were lost"))
    *frames, error = frames_of(await post(failing, stream=True))
    assert text_of(frames) == "Hi"
    assert all(frame["choices"][0]["finish_reason"] is None for frame in frames)
    assert error["error"] == {
        "message": "blocks 8:16 were lost",
        "type": "server_error",
        "param": None,
        "code": "worker_lost",
    }


async def test_a_failure_of_a_whole_answer_is_503_and_not_to_be_retried():
    response = await post(says("Hi", failure=GenerationFailed("worker_lost", "x")))
    assert (response.status_code, error_of(response)["code"]) == (503, "worker_lost")
    assert response.headers["x-should-retry"] == "false"


async def test_a_generation_that_just_ends_is_never_called_finished():
    assert (await post(says("Hi"))).status_code == 503
    assert "error" in frames_of(await post(says("Hi"), stream=True))[-1]


async def test_a_crash_in_mid_stream_says_nothing_of_itself():
    error = frames_of(await post(says("Hi", failure=KeyError("/home/bob")), stream=True))[-1]
    assert error["error"]["code"] == "internal_error"
    assert "bob" not in error["error"]["message"]


async def test_after_the_hold_a_late_failure_comes_inside_the_stream():
    pause = asyncio.Event()
    late = FakeGenerator(failure=NoRoute("8:16"), pauses={0: pause})
    asking = asyncio.create_task(post(late, {"hold_seconds": 0.001}, stream=True))
    await late.started.wait()
    asyncio.get_running_loop().call_later(0.05, pause.set)
    response = await asking
    assert response.status_code == 200
    assert frames_of(response)[-1]["error"]["code"] == "no_worker_available"


async def test_silence_is_filled_with_comments():
    pause = asyncio.Event()
    quick = {"hold_seconds": 0.001, "keep_alive_seconds": 0.01}
    generator = says(pauses={0: pause})
    asking = asyncio.create_task(post(generator, quick, stream=True))
    await generator.started.wait()
    asyncio.get_running_loop().call_later(0.2, pause.set)
    response = await asking
    assert response.text.count(": keep-alive\n\n") >= 2
    assert text_of(frames_of(response)) == "Hi 😀!"


async def test_a_stream_leaves_no_task_behind():
    await post(says(), stream=True)  # the first starts sse-starlette's one watcher
    before = asyncio.all_tasks()
    await post(says(), stream=True)
    assert asyncio.all_tasks() == before


async def test_a_full_gateway_is_503_with_retry_after():
    full = Admission(max_streams=1, max_waiting=0)
    async with full.slot():
        for stream in (False, True):
            response = await post(says(), {"admission": full}, stream=stream)
            assert error_of(response)["code"] == "server_is_overloaded"
            assert response.status_code == 503
            assert "retry-after" in response.headers
    assert (await post(says(), {"admission": full})).status_code == 200


# --- everything else a client may ask ---


async def test_models_are_listed_and_shown_under_every_alias():
    async with in_memory(says()) as client:
        listed = (await client.get("/v1/models")).json()
        (model,) = listed["data"]
        assert (listed["object"], model["id"], model["object"]) == ("list", "acme/tiny", "model")
        assert (model["max_model_len"], model["x_workers_online"]) == (128, 2)
        assert (await client.get("/models")).json() == listed
        for path in ("/v1/models/acme/tiny", "/v1/models/acme%2Ftiny", "/models/acme/tiny/"):
            assert (await client.get(path)).json() == model


async def test_another_model_is_404_wherever_it_is_asked_for():
    async with in_memory(says()) as client:
        for response in (
            await client.get("/v1/models/acme/huge"),
            await client.post(URL, json=HELLO | {"model": "acme/huge"}),
        ):
            assert response.status_code == 404
            assert error_of(response)["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/v1//chat/completions", "/chat/completions", URL + "/"])
async def test_careless_base_urls_work(path: str):
    async with in_memory(says()) as client:
        assert (await client.post(path, json=HELLO)).status_code == 200


async def test_an_unknown_url_and_a_wrong_method_have_the_same_shape():
    async with in_memory(says()) as client:
        unknown = await client.post("/v1/foo")
        assert (unknown.status_code, error_of(unknown)["message"]) == (
            404,
            "Invalid URL (POST /v1/foo)",
        )
        wrong = await client.get(URL)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert error_of(wrong)["type"] == "invalid_request_error"
        assert (await client.options(URL)).headers["allow"] == "POST"


async def test_a_body_too_large_is_413_said_or_not():
    small = {"max_body_bytes": 100}

    async def pieces():
        for _ in range(20):
            yield b" " * 10

    async with in_memory(says(), **small) as client:
        for content in (b" " * 200, pieces()):
            response = await client.post(URL, content=content)
            assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")


async def test_a_form_is_415():
    async with in_memory(says()) as client:
        assert (await client.post(URL, data={"a": "b"})).status_code == 415


async def test_every_answer_has_a_request_id_and_lets_browsers_read_it():
    async with in_memory(says()) as client:
        for response in (
            await client.post(URL, json=HELLO, headers={"origin": "http://chat"}),
            await client.post(URL, content=b"{", headers={"origin": "http://chat"}),
            await client.get("/nowhere", headers={"origin": "http://chat"}),
        ):
            assert re.fullmatch("req_[0-9a-f]{32}", response.headers["x-request-id"])
            assert response.headers["access-control-allow-origin"] == "*"
            assert "x-request-id" in response.headers["access-control-expose-headers"]


async def test_a_preflight_allows_the_headers_sdks_send():
    asked = "authorization,content-type,x-stainless-os"
    headers = {
        "origin": "http://chat",
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
    }
    async with in_memory(says()) as client:
        response = await client.options(URL, headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-headers"] == asked


async def test_a_crash_is_a_500_that_browsers_can_read_and_that_names_the_request():
    def crash() -> dict[str, Any]:
        raise KeyError("/home/bob")

    with capture_logs() as logs:
        async with in_memory(says(), snapshot=crash) as client:
            response = await client.get("/swarm", headers={"origin": "http://chat"})
    assert [event["event"] for event in logs] == ["request_crashed"]
    assert response.status_code == 500
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["x-request-id"] in error_of(response)["message"]
    assert "bob" not in response.text


async def test_ready_says_what_is_missing_while_health_is_always_well():
    async with in_memory(says(), is_ready=lambda: "No worker hosts blocks 8:16.") as client:
        assert (await client.get("/health")).status_code == 200
        response = await client.get("/ready")
        assert (response.status_code, error_of(response)["code"]) == (503, "no_worker_available")
        assert "8:16" in error_of(response)["message"]
    async with in_memory(says()) as client:
        assert (await client.get("/ready")).json()["status"] == "ready"
        assert (await client.get("/swarm")).json()["complete"] is True
        assert (await client.get("/version")).json()["model"] == "acme/tiny"
        assert (await client.get("/openapi.json")).status_code == 200


async def test_the_api_describes_the_body_of_a_chat_completion():
    async with in_memory(says()) as client:
        described = (await client.get("/openapi.json")).json()["paths"][URL]["post"]
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    assert {"model", "messages", "temperature"} <= set(schema["properties"])
    assert "$ref" not in str(schema)
