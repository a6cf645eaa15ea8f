"""POST /v1/embeddings as OpenAI's clients use it."""

import array
import asyncio
import base64
from typing import Any

import httpx
import openai
import pytest

from gateway.admission import Admission
from gateway.api.embeddings import MAX_AT_A_TIME, MAX_TEXTS, MAX_TOKENS
from gateway.room import Room
from shared.errors import GenerationFailed
from shared.wire.messages import Reading
from tests.fakes import SPEC, FakeGenerator, tokens_of
from tests.gateway.conftest import in_memory, served, services_around

URL = "/v1/embeddings"


async def post(
    generator: FakeGenerator | None = None, services: dict[str, Any] | None = None, **body: Any
) -> httpx.Response:
    async with in_memory(generator or FakeGenerator(), **(services or {})) as client:
        return await client.post(URL, json={"model": SPEC.name} | body)


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert list(response.json()) == ["error"]
    return response.json()["error"]


async def test_an_answer_has_every_key_the_specification_requires():
    assert (await post(input=[7, 9])).json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [9.0] * 8}],
        "model": "acme/tiny",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("hello", [tokens_of("hello")]),
        (["hello", "you"], [tokens_of("hello"), tokens_of("you")]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        (["hello", [7]], [tokens_of("hello"), [7]]),
    ],
    ids=str,
)
async def test_texts_may_be_strings_or_ids_one_or_several(given: Any, texts: list[list[int]]):
    generator = FakeGenerator()
    body = (await post(generator, input=given)).json()
    assert [one["index"] for one in body["data"]] == list(range(len(texts)))
    assert [one["embedding"][0] for one in body["data"]] == [text[-1] for text in texts]
    assert body["usage"]["prompt_tokens"] == sum(map(len, texts))
    read = [(call["text"], call["reading"]) for call in generator.calls]
    assert read == [(tuple(text), Reading("mean", (len(text) - 1,))) for text in texts]


async def test_fewer_dimensions_are_left_to_the_workers():
    generator = FakeGenerator()
    body = (await post(generator, input=[7], dimensions=3)).json()
    assert body["data"][0]["embedding"] == [7.0] * 3
    assert generator.calls[0]["reading"] == Reading("mean", (0,), dimensions=3)


async def test_base64_is_the_same_bytes_as_the_numbers():
    body = (await post(input=[7], encoding_format="base64")).json()
    numbers = array.array("f", base64.b64decode(body["data"][0]["embedding"]))
    assert numbers.tolist() == [7.0] * 8


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [[1], [True]]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": [[[1]]]}, "input"),
        ({"input": [SPEC.vocab_size]}, "input"),
        ({"input": "a" * 129}, "input"),
        ({"input": ["a"] * (MAX_TEXTS + 1)}, "input"),
        ({"input": ["a" * 128] * (MAX_TOKENS // 128 + 1)}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 9}, "dimensions"),
        ({"input": "a", "dimensions": "3"}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_mistake_is_named(body: dict[str, Any], param: str):
    generator = FakeGenerator()
    response = await post(generator, **body)
    assert (response.status_code, error_of(response)["param"]) == (400, param)
    assert generator.calls == []


async def test_null_is_absent():
    assert (await post(input="a", dimensions=None, encoding_format=None)).status_code == 200


async def test_an_answer_that_is_too_large_is_refused_with_the_remedy():
    room = Room(4 * 16 * 8)
    assert (await post(services={"room": room}, input=["a"])).status_code == 200
    response = await post(services={"room": room}, input=["a", "b"])
    assert error_of(response)["code"] == "answer_too_large"
    body = {"input": ["a", "b"], "encoding_format": "base64"}
    assert (await post(services={"room": room}, **body)).status_code == 200
    assert room.taken_bytes == 0


class Busy(FakeGenerator):
    """Notes how many texts are read at a time."""

    num_running = 0
    most = 0

    async def read(self, text: tuple[int, ...], reading: Reading):
        self.num_running += 1
        self.most = max(self.most, self.num_running)
        await asyncio.sleep(0)
        rows = await super().read(text, reading)
        self.num_running -= 1
        return rows


@pytest.mark.parametrize(("places", "most"), [(1, 1), (3, 3), (64, MAX_AT_A_TIME)])
async def test_texts_share_the_places_that_nobody_waits_for(places: int, most: int):
    generator = Busy()
    admission = Admission(max_streams=places, max_waiting=0)
    texts = [[n, n] for n in range(40)]
    body = (await post(generator, {"admission": admission}, input=texts)).json()
    assert [one["embedding"][0] for one in body["data"]] == list(range(40))
    assert generator.most == most
    assert admission.num_running == 0


async def test_a_failure_in_any_text_is_the_answers():
    failing = FakeGenerator(failure=GenerationFailed("worker_lost", "gone"))
    room = Room(1 << 20)
    response = await post(failing, {"room": room}, input=["a", "b", "c"])
    assert response.status_code == 503
    assert error_of(response)["code"] == "worker_lost"
    assert room.taken_bytes == 0


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
async def test_the_sdk_gets_numbers_in_order(encoding: Any):
    async with (
        served(services_around(FakeGenerator())) as (url, _),
        openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as sdk,
    ):
        chosen = {"encoding_format": encoding} if encoding else {}
        answer = await sdk.embeddings.create(model=SPEC.name, input=["ab", "ac"], **chosen)
    vectors = [one.embedding for one in answer.data]
    if encoding == "base64":  # who asks for it in so many words gets it as it is
        vectors = [array.array("f", base64.b64decode(str(one))).tolist() for one in vectors]
    assert [[vector[0], len(vector)] for vector in vectors] == [
        [tokens_of("b")[0], 8],
        [tokens_of("c")[0], 8],
    ]
    assert answer.usage.prompt_tokens == 4
