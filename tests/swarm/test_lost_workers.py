"""Workers killed in mid-stream cost a pause, never a token; missing blocks an honest answer."""

import os
import re
import signal
from pathlib import Path

import httpx
import openai
import pytest

from tests.models import build, save
from tests.swarm.conftest import Swarm, Up
from tests.swarm.processes import swarm_of, wait_until

REQUEST = {
    "messages": [{"role": "user", "content": "Tell me a story about buckets and a long road."}],
    "temperature": 0,
    "max_tokens": 120,
}


@pytest.fixture(scope="module")
def twins(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Swarm:
    """Three spans of a random llama, each on two workers; most checkpoints lie on disk."""
    directory = save(build("llama", seed=3), tmp_path_factory.mktemp("models") / "twins")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEWAY_CHECKPOINT_BYTES", "8192")
        patch.setenv("GATEWAY_CHECKPOINT_SPILL_DIR", str(tmp_path_factory.mktemp("spill")))
        return up(directory, "--replicas=2")


@pytest.fixture(scope="module")
def undisturbed(twins: Swarm) -> str:
    completion = twins.client().chat.completions.create(model="twins", **REQUEST)
    assert completion.choices[0].finish_reason == "length"
    return completion.choices[0].message.content or ""


def busy_worker(swarm: Swarm, span: tuple[int, int]) -> int:
    """The pid of the worker of `span` that has a session now."""
    pids = {worker["peer_id"]: worker["pid"] for worker in swarm.state["workers"]}
    for worker in swarm_of(swarm.url)["workers"]:
        is_there = (worker["start"], worker["end"]) == span
        if is_there and worker["status"] and worker["status"]["sessions"]:
            return pids[worker["peer_id"]]
    raise AssertionError(f"no worker of {span} is busy")


def num_bytes_on_disk(swarm: Swarm) -> float:
    page = httpx.get(f"{swarm.url}/metrics").text
    (line,) = re.findall(r"^brigade_gateway_checkpoint_disk_bytes (.+)$", page, re.M)
    return float(line)


@pytest.mark.parametrize("span", [(2, 4), (0, 2), (4, 6)])
def test_a_worker_killed_in_mid_stream_changes_no_token(
    twins: Swarm, undisturbed: str, span: tuple[int, int]
):
    text = ""
    stream = twins.client().chat.completions.create(model="twins", stream=True, **REQUEST)
    killed = None
    for num_chunks, chunk in enumerate(stream):
        text += chunk.choices[0].delta.content or ""
        if num_chunks == 30:
            killed = busy_worker(twins, span)
            assert num_bytes_on_disk(twins) > 0
            os.kill(killed, signal.SIGKILL)
    assert killed is not None
    assert text == undisturbed


def test_a_killed_worker_leaves_the_view_at_once_and_its_blocks_are_named(twins: Swarm):
    """Runs last: every span has one worker left, and here one of those goes too."""
    workers = swarm_of(twins.url)["workers"]
    assert len(workers) == 3
    pids = {worker["peer_id"]: worker["pid"] for worker in twins.state["workers"]}
    victim = next(worker for worker in workers if worker["start"] == 2)
    os.kill(pids[victim["peer_id"]], signal.SIGKILL)
    wait_until(lambda: len(swarm_of(twins.url)["workers"]) == 2, 2, "the worker leaves the view")

    with pytest.raises(openai.InternalServerError) as caught:
        twins.client().chat.completions.create(model="twins", **REQUEST)
    assert caught.value.status_code == 503
    assert caught.value.code == "no_worker_available"
    assert "2:4" in caught.value.message
    assert httpx.get(f"{twins.url}/ready").status_code == 503
    assert httpx.get(f"{twins.url}/health").status_code == 200


def test_a_client_that_goes_away_frees_its_session_within_a_second(up: Up, tmp_path: Path):
    from tests.swarm.processes import num_sessions

    swarm = up(save(build("llama", max_position_embeddings=4096), tmp_path / "long"))
    request = {**REQUEST, "max_tokens": 3000}
    stream = swarm.client().chat.completions.create(model="long", stream=True, **request)
    for num_chunks, _ in enumerate(stream):
        if num_chunks == 5:
            break
    wait_until(lambda: num_sessions(swarm.url) == 3, 3, "the workers tell of the session")
    stream.close()
    wait_until(lambda: num_sessions(swarm.url) == 0, 1, "the session is freed")

    with pytest.raises(openai.APITimeoutError):  # the same for an answer in one piece
        swarm.client().with_options(timeout=1).chat.completions.create(model="long", **request)
    wait_until(lambda: num_sessions(swarm.url) == 0, 1, "the session is freed")
    swarm.process.stop()
