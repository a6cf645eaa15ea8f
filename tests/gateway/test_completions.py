"""POST /v1/completions: four forms of prompts, echoes, scores, streams equal to the whole."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import openai
import pytest

from gateway.admission import Admission
from gateway.generator import Token
from gateway.plain_text import PlainText
from shared.errors import GenerationFailed, NoRoute
from shared.wire.messages import Sampling, TokenLogprobs
from tests.fakes import END, START, FakeGenerator, sentencepiece_tokenizer, tokens_of
from tests.gateway.conftest import in_memory, served, services_around, until

URL = "/v1/completions"
ASK: dict[str, Any] = {"model": "acme/tiny", "prompt": "Once"}
SAID = f" up😀 on{END}"


def told(text: str) -> dict[int, TokenLogprobs]:
    return {i: TokenLogprobs(-0.5 - i / 8, (i, 5), (-0.5 - i / 8, -9.0)) for i in tokens_of(text)}


def says(text: str = SAID, **changes: Any) -> FakeGenerator:
    return FakeGenerator(tokens_of(text), logprobs=told(text), **changes)


async def post(generator: Any = None, services: dict[str, Any] | None = None, **body: Any):
    async with in_memory(generator or says(), **(services or {})) as client:
        return await client.post(URL, json=ASK | body)


async def choice(generator: FakeGenerator | None = None, **body: Any) -> dict[str, Any]:
    response = await post(generator, **body)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return choice


def frames_of(response: httpx.Response) -> list[dict[str, Any]]:
    *frames, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames if frame[0] != ":"]


def joined(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices that a stream's chunks add up to."""
    whole: dict[int, dict[str, Any]] = {}
    for chunk in frames:
        for part in chunk["choices"]:
            one = whole.setdefault(part["index"], {"index": part["index"], "text": ""})
            one["text"] += part["text"]
            one.setdefault("logprobs", None)
            if part["logprobs"] is not None:
                lists = one["logprobs"] or {name: [] for name in part["logprobs"]}
                one["logprobs"] = {name: lists[name] + part["logprobs"][name] for name in lists}
            assert "finish_reason" not in one, "nothing follows a finish"
            if part["finish_reason"] is not None:
                one["finish_reason"] = part["finish_reason"]
    return [whole[index] for index in sorted(whole)]


# --- whole answers ---


async def test_an_answer_has_every_key_the_specification_requires():
    body = (await post(max_tokens=3)).json()
    assert body.pop("id").startswith("cmpl-")
    assert body.pop("created") > 1_700_000_000
    assert body.pop("system_fingerprint").startswith("fp_")
    assert body == {
        "object": "text_completion",
        "model": "acme/tiny",
        "choices": [{"index": 0, "text": " up", "logprobs": None, "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": 4,
            "completion_tokens": 3,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        (tokens_of("ab"), ["ab"]),
        ([tokens_of("ab"), [float(tokens_of("c")[0])]], ["ab", "c"]),
    ],
)
async def test_prompts_come_in_four_forms(prompt: Any, seen: list[str]):
    generator = says()
    assert (await post(generator, prompt=prompt)).status_code == 200
    assert [list(call["prompt"]) for call in generator.calls] == [tokens_of(text) for text in seen]


async def test_sixteen_tokens_are_made_if_nothing_is_said():
    generator = says("x" * 40)
    assert (await choice(generator))["text"] == "x" * 16
    assert generator.calls[0]["max_tokens"] == 16


async def test_choices_are_numbered_prompt_by_prompt():
    choices = (await post(prompt=["a", "b"], n=2, echo=True)).json()["choices"]
    assert [(one["index"], one["text"][0]) for one in choices] == [
        (0, "a"),
        (1, "a"),
        (2, "b"),
        (3, "b"),
    ]


async def test_choices_have_seeds_of_their_own_that_come_again():
    seeds = []
    for _ in range(2):
        generator = says()
        await post(generator, n=3, seed=7)
        seeds.append([call["sampling"].seed for call in generator.calls])
    assert seeds[0] == seeds[1]
    assert seeds[0][0] == 7
    assert len(set(seeds[0])) == 3


async def test_an_echo_stands_in_front_as_it_was_written():
    assert (await choice(echo=True, stop=["on"]))["text"] == "Once up😀 "
    assert (await choice(echo=True, prompt=tokens_of("Once"), max_tokens=1))["text"] == "Once "


async def test_logprobs_have_the_legacy_shape():
    logprobs = (await choice(says(" a€"), max_tokens=5, logprobs=1))["logprobs"]
    space, a, euro, middle, last = tokens_of(" a€")
    names = [" ", "a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert logprobs["tokens"] == names
    ids = (space, a, euro, middle, last)
    assert logprobs["token_logprobs"] == [told(" a€")[i].chosen for i in ids]
    assert logprobs["text_offset"] == [0, 1, 2, 2, 2]
    assert all(name in top for name, top in zip(names, logprobs["top_logprobs"], strict=True))


async def test_a_prompt_can_be_scored_and_nothing_made():
    scores = tuple(TokenLogprobs(-i, (1,), (-0.1,), rank=2) for i in (1, 2, 3))
    generator = says(prompt_logprobs=scores)
    body = (await post(generator, echo=True, logprobs=1, max_tokens=0)).json()
    (one,) = body["choices"]
    assert (one["text"], one["finish_reason"]) == ("Once", "length")
    assert one["logprobs"]["tokens"] == list("Once")
    assert one["logprobs"]["token_logprobs"] == [None, -1, -2, -3]
    assert one["logprobs"]["text_offset"] == [0, 1, 2, 3]
    assert one["logprobs"]["top_logprobs"][0] is None
    assert body["usage"]["completion_tokens"] == 0
    assert generator.calls[0]["sampling"].num_prompt_logprobs == 1


async def test_offsets_go_on_behind_an_echo():
    scores = tuple(TokenLogprobs(-1, (1,), (-0.1,), rank=2) for _ in range(3))
    logprobs = (await choice(says(" up", prompt_logprobs=scores), echo=True, logprobs=0,
                             max_tokens=3))["logprobs"]  # fmt: skip
    assert logprobs["text_offset"] == [0, 1, 2, 3, 4, 5, 6]
    assert logprobs["tokens"] == [*"Once", " ", "u", "p"]


class Rolling:
    """Says something else for each seed, likelier the later it was asked."""

    def __init__(self) -> None:
        self.num_calls = 0

    async def generate(
        self, prompt: tuple[int, ...], *, sampling: Sampling, **_: Any
    ) -> AsyncGenerator[Token, None]:
        self.num_calls += 1
        number = self.num_calls
        assert sampling.num_logprobs is not None
        for token_id in tokens_of(f"{number}{END}"):
            yield Token(token_id, TokenLogprobs(-9.0 + number, (), ()))


async def test_of_several_the_likeliest_are_given_and_all_are_paid_for():
    body = (await post(Rolling(), best_of=4, n=2)).json()
    assert [one["text"] for one in body["choices"]] == ["4", "3"]
    assert [one["index"] for one in body["choices"]] == [0, 1]
    assert body["usage"]["completion_tokens"] == 8


# --- streams ---


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"max_tokens": 3},
        {"echo": True},
        {"n": 2, "prompt": ["a", "bc"], "echo": True},
        {"logprobs": 2, "stop": ["n"]},
        {"logprobs": 0, "max_tokens": 4},
        {"logprobs": 1, "stop": ["zz", "o"], "n": 3},
    ],
)
async def test_the_pieces_of_a_stream_add_up_to_the_whole(body: dict[str, Any]):
    whole = (await post(**body)).json()
    frames = frames_of(await post(**body, stream=True, stream_options={"include_usage": True}))
    assert joined(frames) == whole["choices"]
    assert frames[-1]["usage"] == whole["usage"]
    assert frames[-1]["choices"] == []
    assert all(frame["usage"] is None for frame in frames[:-1])
    assert len({(frame["id"], frame["object"], frame["created"]) for frame in frames}) == 1


async def test_an_echo_with_scores_streams_as_a_whole_too():
    scores = tuple(TokenLogprobs(-1, (1,), (-0.1,), rank=2) for _ in range(3))
    body: dict[str, Any] = {"echo": True, "logprobs": 1}
    whole = (await post(says(prompt_logprobs=scores), **body)).json()
    frames = frames_of(await post(says(prompt_logprobs=scores), **body, stream=True))
    assert joined(frames) == whole["choices"]
    assert "usage" not in frames[0]


async def test_what_fails_in_mid_stream_is_told_in_it():
    response = await post(says(" up", failure=GenerationFailed("worker_lost", "x")), stream=True)
    frames = frames_of(response)
    assert frames[-1]["error"]["code"] == "worker_lost"
    assert all(part["finish_reason"] is None for one in frames[:-1] for part in one["choices"])


async def test_what_fails_before_it_keeps_its_status():
    for body in ({"stream": True}, {}, {"stream": True, "n": 2}):
        assert (await post(FakeGenerator(failure=NoRoute("8:16")), **body)).status_code == 503


async def test_a_choice_that_finds_no_place_refuses_the_request():
    pause = asyncio.Event()
    services = {"admission": Admission(max_streams=1, max_waiting=0), "hold_seconds": 0.01}
    response = await post(says(pauses={0: pause}), services, n=2, stream=True)
    assert response.status_code == 503


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_frees_all_its_places(stream: bool):
    generator = says(pauses={1: asyncio.Event()})
    admission = Admission(max_streams=4, max_waiting=0)
    services = services_around(generator, admission=admission)
    async with served(services) as (url, _), httpx.AsyncClient(base_url=url) as client:
        body = ASK | {"stream": stream, "n": 3}
        asking = asyncio.create_task(client.post(URL, json=body))
        await until(lambda: len(generator.calls) == 3)
        asking.cancel()
        await until(lambda: not admission.num_running, seconds=1)


async def test_the_sdk_takes_both():
    async with (
        served(services_around(says())) as (url, _),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as sdk,
    ):
        whole = await sdk.completions.create(**ASK)
        chunks = [chunk async for chunk in await sdk.completions.create(**ASK, stream=True)]
    assert whole.choices[0].text == " up😀 on"
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


# --- mistakes ---


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1, [1]]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "x" * 128}, "prompt"),
        ({"prompt": ["x"] * 65}, "prompt"),
        ({"prompt": ["x"] * 9, "n": 8}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 17}, "n"),
        ({"n": 10**30}, "n"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logit_bias": {"300": 1}}, "logit_bias"),
    ],
)
async def test_a_mistake_is_named(body: dict[str, Any], param: str):
    generator = says()
    response = await post(generator, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert generator.calls == []


async def test_a_prompt_too_long_is_told_as_agents_know_it():
    error = (await post(prompt="x" * 129)).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith("This model's maximum context length is 128 tokens.")


async def test_a_prompt_that_fills_the_context_can_still_be_scored():
    scores = tuple(TokenLogprobs(-1, (), (), rank=2) for _ in range(127))
    body: dict[str, Any] = {"prompt": "x" * 128, "echo": True, "logprobs": 0, "max_tokens": 0}
    assert (await post(says(prompt_logprobs=scores), **body)).status_code == 200


async def test_what_has_no_effect_is_named_and_what_cannot_be_kept_refused():
    async with in_memory(says()) as client:
        ignored = await client.post(URL, json=ASK | {"user": "u"})
        refused = await client.post(URL, json=ASK, headers={"x-resumable": "1"})
    assert ignored.headers["x-ignored-params"] == "user"
    assert refused.status_code == 400


# --- text as it is ---


def test_what_follows_a_prompt_keeps_its_first_space():
    plain = PlainText(sentencepiece_tokenizer())
    prompt, following = plain.encode("b", with_special=False), plain.encode("a", with_special=False)
    decoder = plain.decoder_after(prompt)
    assert "".join(map(decoder.feed, following)) == " a"


def test_what_a_model_wants_in_front_is_there_once():
    from tokenizers.processors import TemplateProcessing

    tokenizer = type(sentencepiece_tokenizer()).from_str(sentencepiece_tokenizer().to_str())
    start = tokenizer.token_to_id(START)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, start)]
    )
    plain = PlainText(tokenizer)
    assert plain.encode("a", with_special=True)[0] == start
    assert plain.encode("", with_special=True) == (start,)
    assert plain.encode(f"{START}a", with_special=True).count(start) == 1
    assert start not in plain.encode("a", with_special=False)


# --- idempotency keys ---


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"echo": True, "logprobs": 1}])
async def test_the_same_request_with_the_same_key_gets_the_same_answer(more: dict[str, Any]):
    scores = tuple(TokenLogprobs(-1.0, (), (), rank=2) for _ in ASK["prompt"][1:])
    generator, key = says(prompt_logprobs=scores), {"idempotency-key": "k"}
    async with in_memory(generator) as client:
        first = await client.post(URL, json=ASK | more, headers=key)
        second = await client.post(URL, json=ASK | more, headers=key)
        other = await client.post(URL, json=ASK | more | {"seed": 7}, headers=key)
    assert first.status_code == 200
    assert first.text == second.text
    assert len(generator.calls) == 1
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reuse")


@pytest.mark.parametrize(
    ("more", "param"), [({"n": 2}, "n"), ({"best_of": 2}, "n"), ({"prompt": ["a", "b"]}, "prompt")]
)
async def test_of_several_answers_none_is_kept(more: dict[str, Any], param: str):
    async with in_memory(says()) as client:
        answer = await client.post(URL, json=ASK | more, headers={"idempotency-key": "k"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_key_of_chat_completions_is_another_key():
    generator, key = says(), {"idempotency-key": "k"}
    chat = {"model": ASK["model"], "messages": [{"role": "user", "content": "a"}]}
    async with in_memory(generator) as client:
        for url, body in ((URL, ASK), ("/v1/chat/completions", chat)):
            assert (await client.post(url, json=body, headers=key)).status_code == 200
    assert len(generator.calls) == 2
