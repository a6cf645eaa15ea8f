"""An answer may go on to the last position of the context, and ends there."""

from pathlib import Path

import httpx
import pytest
import torch
from transformers import PreTrainedModel

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


@pytest.mark.slow
def test_through_the_api_it_ends_by_its_length_and_one_token_more_is_refused(
    up: Up, directory: Path, model: PreTrainedModel
):
    served: Swarm = up(directory)
    positions = model.config.max_position_embeddings
    asked = {"model": served.client().models.list().data[0].id, "ignore_eos": True}

    def complete(num_tokens: int, max_tokens: int) -> httpx.Response:
        body = asked | {"prompt": prompt_of(num_tokens), "max_tokens": max_tokens}
        return httpx.post(f"{served.url}/v1/completions", json=body, timeout=60)

    for room in ROOMS:
        for wanted in (room, room + 100):
            answer = complete(positions - room, wanted).json()
            assert answer["choices"][0]["finish_reason"] == "length"
            assert answer["usage"]["total_tokens"] == positions
    refused = complete(positions, 1)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
