"""An answer may go on to the last position of the context, and ends there."""

import json
from itertools import count
from pathlib import Path

import httpx
import pytest
import torch
from transformers import PreTrainedModel

from gateway.text import ChatText
from tests.inprocess import swarm
from tests.swarm.conftest import Swarm, Up

SPANS = ["0:2", "2:4", "4:6"]
ROOMS = (1, 5)


def prompt_of(num_tokens: int) -> list[int]:
    return [(7 * i) % 300 + 10 for i in range(num_tokens)]


@torch.inference_mode()
def expected(model: PreTrainedModel, prompt: list[int], room: int) -> list[int]:
    made = model.generate(
        torch.tensor([prompt]), max_new_tokens=room, min_new_tokens=room, do_sample=False
    )
    return made[0, len(prompt) :].tolist()


@pytest.mark.parametrize("guess_tokens", [0, 4])
async def test_tokens_up_to_the_last_position_are_those_of_the_whole_model(
    model: PreTrainedModel, directory: Path, guess_tokens: int
):
    async with swarm(directory, SPANS, guess_tokens=guess_tokens) as s:
        for room in ROOMS:
            prompt = prompt_of(s.spec.max_positions - room)
            assert await s.greedy(prompt, room) == expected(model, prompt, room)


@pytest.fixture(scope="module")
def served(up: Up, directory: Path) -> Swarm:
    """A swarm of real processes."""
    return up(directory)


def ask(served: Swarm, path: str, **body: object) -> httpx.Response:
    model = served.client().models.list().data[0].id
    whole = {"model": model, "ignore_eos": True, "temperature": 0} | body
    return httpx.post(f"{served.url}{path}", json=whole, timeout=60)


def room_left(max_tokens: int | None) -> dict[str, int]:
    return {} if max_tokens is None else {"max_tokens": max_tokens}


def conversation_of(directory: Path, num_tokens: int) -> list[dict[str, str]]:
    """Messages whose prompt has exactly so many tokens."""
    text = ChatText.load(directory)

    def messages(size: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": "7" * size}]

    size = next(n for n in count(1) if len(text.render(messages(n))) >= num_tokens)
    prompt = messages(size)
    assert len(text.render(prompt)) == num_tokens, "each 7 is a token"
    return prompt


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [None, 0, 100], ids=["left out", "all there is", "more"])
@pytest.mark.parametrize("room", ROOMS)
def test_a_completion_that_fills_the_context_ends_by_its_length(
    served: Swarm, model: PreTrainedModel, room: int, wanted: int | None
):
    positions = model.config.max_position_embeddings
    prompt = prompt_of(positions - room)
    limit = room_left(wanted if wanted is None else room + wanted)
    answer = ask(served, "/v1/completions", prompt=prompt, **limit).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == positions - room
    assert answer["usage"]["completion_tokens"] == room
    assert answer["usage"]["total_tokens"] == positions


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [None, 0, 100], ids=["left out", "all there is", "more"])
@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_a_chat_that_fills_the_context_ends_by_its_length(
    served: Swarm,
    directory: Path,
    model: PreTrainedModel,
    *,
    room: int,
    wanted: int | None,
    streams: bool,
):
    positions = model.config.max_position_embeddings
    limit = room_left(wanted if wanted is None else room + wanted)
    answer = ask(
        served,
        "/v1/chat/completions",
        messages=conversation_of(directory, positions - room),
        return_token_ids=True,
        stream=streams,
        stream_options={"include_usage": True} if streams else None,
        **limit,
    )
    assert answer.status_code == 200
    if streams:
        *events, done = answer.text.removesuffix("\n\n").split("\n\n")
        assert done == "data: [DONE]"
        told = [json.loads(event.removeprefix("data: ")) for event in events]
    else:
        told = [answer.json()]
    choices = [choice for one in told for choice in one["choices"]]
    token_ids = [token_id for choice in choices for token_id in choice.get("token_ids") or ()]
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    assert "error" not in answer.text
    assert reasons == ["length"]
    assert len(token_ids) == room
    usage = told[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (positions - room, room)


@pytest.mark.slow
@pytest.mark.parametrize("too_many", [0, 1], ids=["exactly the context", "one more"])
@pytest.mark.parametrize("wanted", [None, 1])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_a_prompt_that_leaves_no_room_is_refused(
    served: Swarm,
    directory: Path,
    model: PreTrainedModel,
    *,
    too_many: int,
    wanted: int | None,
    streams: bool,
):
    num_tokens = model.config.max_position_embeddings + too_many
    asked = room_left(wanted) | {"stream": streams}
    prompt, messages = prompt_of(num_tokens), conversation_of(directory, num_tokens)
    for refused in (
        ask(served, "/v1/completions", prompt=prompt, **asked),
        ask(served, "/v1/chat/completions", messages=messages, **asked),
    ):
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert f"resulted in {num_tokens} tokens" in error["message"]


@pytest.mark.slow
def test_a_prompt_of_the_whole_context_may_be_scored_where_nothing_is_to_follow(
    served: Swarm, model: PreTrainedModel
):
    positions = model.config.max_position_embeddings
    asked = {"max_tokens": 0, "echo": True, "logprobs": 0}
    answer = ask(served, "/v1/completions", prompt=prompt_of(positions), **asked).json()
    assert answer["usage"]["completion_tokens"] == 0
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == positions
    refused = ask(served, "/v1/completions", prompt=prompt_of(positions + 1), **asked)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
