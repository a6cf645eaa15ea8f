"""Hidden states, logits and embeddings over HTTP, of real workers, one of them killed under way."""

import array
import base64
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.numpy import load
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.models import build, save
from tests.swarm.conftest import Swarm, Up
from tests.swarm.processes import num_sessions, swarm_of, wait_until

TEXT = [(7 * i) % 300 + 10 for i in range(400)]
WORDS = ["Two buckets went down a long road.", "Somebody passes them on."]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama", seed=5), tmp_path_factory.mktemp("models") / "read")


@pytest.fixture(scope="module")
def model(directory: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


@pytest.fixture(scope="module")
def twins(up: Up, directory: Path) -> Iterator[Swarm]:
    """Three spans, each on two workers, and a gateway whose steps are of one token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEWAY_PREFILL_CHUNK_TOKENS", "1")
        yield up(directory, "--replicas=2")


def post(swarm: Swarm, path: str, **body: object) -> bytes:
    response = httpx.post(f"{swarm.url}/v1/{path}", json={"model": "read"} | body, timeout=60)
    assert response.status_code == 200, response.text
    return response.content


@torch.inference_mode()
def embedding(model: PreTrainedModel, ids: list[int], dimensions: int) -> Tensor:
    states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    mean = states.double().mean(0)[:dimensions]
    return (mean / mean.norm()).float()


def test_states_and_logits_are_those_of_the_whole_model(twins: Swarm, model: PreTrainedModel):
    text = TEXT[:60]
    with torch.inference_mode():
        expected = model(torch.tensor([text]), output_hidden_states=True)
    file = load(post(twins, "hidden_states", input=text, blocks=list(range(7))))
    for block in range(7):
        states = torch.from_numpy(file[f"hidden_states.{block}"])
        torch.testing.assert_close(states, expected.hidden_states[block][0], rtol=1e-4, atol=2e-5)
    logits = load(post(twins, "logits", input=text, positions=[3, -1]))["logits"]
    torch.testing.assert_close(
        torch.from_numpy(logits), expected.logits[0, [3, -1]], rtol=1e-4, atol=2e-5
    )


@pytest.mark.parametrize("dimensions", [None, 10])
def test_the_sdk_embeds_as_the_whole_model_does(
    twins: Swarm, model: PreTrainedModel, directory: Path, dimensions: int | None
):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    asked = {"dimensions": dimensions} if dimensions else {}
    create = twins.client().embeddings.create
    as_floats = create(model="read", input=WORDS, encoding_format="float", **asked)
    by_default = create(model="read", input=WORDS, **asked)
    as_base64 = create(model="read", input=WORDS, encoding_format="base64", **asked)
    for index, words in enumerate(WORDS):
        expected = embedding(model, tokenizer(words)["input_ids"], dimensions or 64)
        numbers = torch.tensor(as_floats.data[index].embedding)
        torch.testing.assert_close(numbers, expected, rtol=1e-4, atol=2e-5)
        assert as_floats.data[index].index == index
        packed = base64.b64decode(str(as_base64.data[index].embedding))
        for same in (by_default.data[index].embedding, array.array("f", packed)):
            # what shares a batch may change the last bits
            torch.testing.assert_close(torch.tensor(same), numbers, rtol=1e-4, atol=2e-6)


def test_a_worker_killed_under_way_changes_no_byte(twins: Swarm):
    body = {"input": TEXT, "blocks": [0, 1, 2, 3, 4, 5, 6]}
    undisturbed = post(twins, "hidden_states", **body)
    pids = {worker["peer_id"]: worker["pid"] for worker in twins.state["workers"]}

    def busy() -> list[str]:
        return [
            worker["peer_id"]
            for worker in swarm_of(twins.url)["workers"]
            if worker["start"] == 2 and worker["status"] and worker["status"]["sessions"]
        ]

    wait_until(lambda: num_sessions(twins.url) == 0, 10, "the first session is freed")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(post, twins, "hidden_states", **body)
        seen: list[str] = []
        wait_until(lambda: seen or seen.extend(busy()), 10, "a worker is busy")
        os.kill(pids[seen[0]], signal.SIGKILL)
        assert not reading.done()
        assert reading.result() == undisturbed
    assert len(swarm_of(twins.url)["workers"]) == 5
