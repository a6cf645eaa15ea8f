"""POST /v1/hidden_states and /v1/logits: which text is read, of what, and how it comes back."""

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load

from gateway.admission import Admission
from gateway.room import Room
from shared.errors import GenerationFailed, NoRoute
from shared.wire.messages import Reading
from tests.fakes import SPEC, FakeGenerator, chat_text, tokens_of
from tests.gateway.conftest import in_memory, served, services_around, until

STATES, LOGITS = "/v1/hidden_states", "/v1/logits"
TEXT = [7, 8, 9]
MESSAGES = [{"role": "user", "content": "hello"}]


async def post(
    path: str,
    generator: FakeGenerator | None = None,
    services: dict[str, Any] | None = None,
    **body: Any,
) -> httpx.Response:
    async with in_memory(generator or FakeGenerator(), **(services or {})) as client:
        return await client.post(path, json={"model": SPEC.name} | body)


async def tensors(path: str, **body: Any) -> dict[str, NDArray[Any]]:
    response = await post(path, **body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    return load(response.content)


async def asked(path: str, **body: Any) -> Reading:
    generator = FakeGenerator()
    response = await post(path, generator, **body)
    assert response.status_code == 200, response.text
    return generator.calls[0]["reading"]


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert list(response.json()) == ["error"]
    return response.json()["error"]


# --- what is read ---


async def test_all_positions_of_what_the_final_norm_puts_out_are_told_by_default():
    file = await tensors(STATES, input=TEXT)
    assert set(file) == {"hidden_states.24", "positions", "token_ids"}
    assert file["hidden_states.24"].tolist() == [[n] * 8 for n in TEXT]
    assert file["hidden_states.24"].dtype == np.float32
    assert file["positions"].tolist() == [0, 1, 2]
    assert file["token_ids"].tolist() == TEXT


async def test_the_logits_after_the_last_token_are_told_by_default():
    file = await tensors(LOGITS, input=TEXT)
    assert file["logits"].tolist() == [[9] * SPEC.vocab_size]
    assert file["positions"].tolist() == [2]


async def test_blocks_and_positions_may_be_chosen_and_counted_from_the_end():
    file = await tensors(STATES, input=TEXT, blocks=[-1, 0, 5], positions=[-1, 0])
    assert {name for name in file if name.startswith("hidden_states")} == {
        f"hidden_states.{block}" for block in (0, 5, 24)
    }
    assert file["positions"].tolist() == [0, 2]
    reading = await asked(STATES, input=TEXT, blocks=[-1, 0, 5], positions=[-1, 0])
    assert reading == Reading("states", (0, 2), (0, 5, 24))


@pytest.mark.parametrize("path", [STATES, LOGITS, "/hidden_states", "/logits"])
async def test_a_text_may_be_a_string_ids_or_messages(path: str):
    string = await tensors(path, input="hello")
    assert string["token_ids"].tolist() == tokens_of("hello")
    ids = await tensors(path, input=tokens_of("hello"))
    assert ids["token_ids"].tolist() == tokens_of("hello")
    chat = await tensors(path, messages=MESSAGES)
    assert chat["token_ids"].tolist() == list(chat_text().render(MESSAGES))


async def test_the_file_is_in_the_dtype_that_workers_compute_in():
    response = await post(STATES, FakeGenerator(dtype="float16"), input=TEXT)
    assert load(response.content)["hidden_states.24"].dtype == np.float16


async def test_the_models_revision_and_what_was_ignored_are_told():
    response = await post(STATES, input=TEXT, user="me", model_x=1)
    assert response.headers["x-model-revision"] == "abc123"
    assert response.headers["x-ignored-params"] == "user, model_x"


# --- what is wrong ---


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": "hi", "messages": MESSAGES}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["hi"]}, "input"),
        ({"input": [1, True]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [SPEC.vocab_size]}, "input"),
        ({"input": [1 << 40]}, "input"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"input": TEXT, "positions": []}, "positions"),
        ({"input": TEXT, "positions": [0, 3]}, "positions[1]"),
        ({"input": TEXT, "positions": [-4]}, "positions[0]"),
        ({"input": TEXT, "positions": [0, -3]}, "positions"),
        ({"input": TEXT, "positions": ["0"]}, "positions[0]"),
        ({"input": TEXT, "positions": [1e300]}, "positions[0]"),
        ({"input": TEXT, "blocks": [25]}, "blocks[0]"),
        ({"input": TEXT, "blocks": [24, -1]}, "blocks"),
        ({"input": TEXT, "blocks": []}, "blocks"),
        ({"input": TEXT, "blocks": 3}, "blocks"),
        ({"input": TEXT, "add_special_tokens": 1}, "add_special_tokens"),
        ({"input": TEXT, "truncate_prompt_tokens": 2}, "truncate_prompt_tokens"),
        ({"input": TEXT, "model": "other"}, "model"),
        ({"input": TEXT, "model": None}, "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_mistake_is_named(body: dict[str, Any], param: str):
    generator = FakeGenerator()
    response = await post(STATES, generator, **body)
    assert response.status_code == (404 if body.get("model") == "other" else 400)
    assert error_of(response)["param"] == param
    assert generator.calls == []


async def test_a_text_that_the_model_cannot_see_whole_is_refused():
    assert (await post(STATES, input=[1] * 128)).status_code == 200
    error = error_of(await post(STATES, input=[1] * 129))
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 128 tokens" in error["message"]


async def test_an_answer_that_is_too_large_is_refused_with_the_remedy():
    room = Room(4 * 3 * 8 * 4)
    assert (await post(STATES, services={"room": room}, input=TEXT)).status_code == 200
    response = await post(STATES, services={"room": room}, input=TEXT, blocks=[1, 2])
    assert error_of(response)["code"] == "answer_too_large"
    assert "fewer positions or blocks" in error_of(response)["message"]
    assert (await post(LOGITS, services={"room": room}, input=TEXT)).status_code == 400


@pytest.mark.parametrize(
    ("failure", "status"),
    [(NoRoute("blocks 2:4 have no worker"), 503), (GenerationFailed("worker_lost", "gone"), 503)],
)
async def test_a_failure_is_told_and_its_room_given_back(failure: Exception, status: int):
    room = Room(1 << 20)
    response = await post(STATES, FakeGenerator(failure=failure), {"room": room}, input=TEXT)
    assert response.status_code == status
    assert room.taken_bytes == 0


# --- places and clients ---


async def test_a_reading_waits_for_its_turn():
    pause = asyncio.Event()
    generator = FakeGenerator(pauses={0: pause})
    admission = Admission(max_streams=1, max_waiting=0)
    async with in_memory(generator, admission=admission) as client:
        body = {"model": SPEC.name, "input": TEXT}
        first = asyncio.create_task(client.post(STATES, json=body))
        await generator.started.wait()
        assert (await client.post(LOGITS, json=body)).status_code == 503
        pause.set()
        assert (await first).status_code == 200
    assert admission.num_running == 0


async def test_a_client_that_hangs_up_ends_the_reading_and_frees_its_room():
    generator = FakeGenerator(pauses={0: asyncio.Event()})
    room = Room(1 << 20)
    async with (
        served(services_around(generator, room=room)) as (url, _),
        httpx.AsyncClient() as client,
    ):
        sending = asyncio.create_task(
            client.post(url + STATES, json={"model": SPEC.name, "input": TEXT})
        )
        await generator.started.wait()
        assert room.taken_bytes == 3 * 8 * 4
        sending.cancel()
        await generator.closed.wait()
        await until(lambda: room.taken_bytes == 0)


async def test_room_is_given_back_when_the_answer_is_sent():
    room = Room(1 << 20)
    async with served(services_around(FakeGenerator(), room=room)) as (url, _):
        async with httpx.AsyncClient() as client:
            response = await client.post(url + STATES, json={"model": SPEC.name, "input": TEXT})
            assert load(response.content)["token_ids"].tolist() == TEXT
        await until(lambda: room.taken_bytes == 0)


async def test_the_documentation_describes_both():
    async with in_memory(FakeGenerator()) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    for path, field in ((STATES, "blocks"), (LOGITS, "positions")):
        route = paths[path]["post"]
        schema = route["requestBody"]["content"]["application/json"]["schema"]
        assert {"input", "messages", field} <= schema["properties"].keys()
        assert "application/octet-stream" in route["responses"]["200"]["content"]
