"""A swarm whose parts each fetch what they need from a hub, and no more."""

from pathlib import Path

import pytest

from shared.swarm import Span
from tests.hub import COMMIT, MODEL, Hub, files_of
from tests.models import build, greedy_answer, save
from tests.swarm.conftest import Start, Up
from tests.swarm.processes import swarm_of
from worker.weights import needed_tensors, tensor_bytes

QUESTION = "Who fetches what?"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(build("llama"), tmp_path / "model", shard="1GB")
    with Hub(files_of(tmp_path / "model")).serving() as hub:
        for name, value in hub.environment(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        yield hub


def test_a_swarm_of_a_model_on_the_hub_answers_as_transformers_does(hub: Hub, up: Up):
    expected, _ = greedy_answer(build("llama"), QUESTION, 20)
    swarm = up(f"{MODEL}@v1", "--workers=2")
    assert swarm_of(swarm.url)["revision"] == COMMIT
    completion = swarm.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=20,
    )
    assert completion.choices[0].message.content == expected
    swarm.process.stop()


def test_a_worker_says_how_far_it_is_and_fetches_its_span(hub: Hub, start: Start, tmp_path: Path):
    worker = start("worker", f"--model={MODEL}", "--blocks=2:4", "--kv-tokens=64")
    worker.wait_for("worker ready: ")
    assert "worker: fetching blocks 2:4 of acme/tiny: 100 % of 0.2 MB" in worker.output
    model = tmp_path / "model"
    needed = tensor_bytes(model, needed_tensors(model, Span(2, 4)))
    sent = hub.sent["model.safetensors"]
    assert needed <= sent <= needed + (256 << 10)  # the header comes with some of what follows


@pytest.mark.parametrize("command", ["worker", "gateway", "up"])
def test_a_model_that_the_hub_does_not_have_is_one_sentence_and_status_2(
    hub: Hub, start: Start, command: str
):
    process = start(command, "--model=acme/none")
    assert process.exit_code() == 2
    assert process.lines == [
        f"brigade {command}: model acme/none is not on the hub, or is private: check the name, or "
        "log in with `hf auth login`"
    ]
