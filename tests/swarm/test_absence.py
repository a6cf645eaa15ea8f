"""Processes that find nobody say why; a worker told no model finds one that needs it."""

import json
import shutil
import signal
from pathlib import Path

import httpx
import pytest

from tests.models import build, save
from tests.swarm.conftest import Start
from tests.swarm.processes import Brigade, wait_until


@pytest.fixture
def join(start: Start) -> str:
    line = start("bootstrap", "--port=0").wait_for("bootstrap ready: ")
    return line.partition("ready: ")[2].strip()


def worker(start: Start, home: Path, name: str, *more: str) -> Brigade:
    return start(
        *("worker", f"--identity={home / name}.key", "--threads=1", "--kv-tokens=1024"),
        "--settle-seconds=2",
        *more,
    )


def gateway(start: Start, home: Path, name: str, *more: str) -> Brigade:
    return start("gateway", "--port=0", f"--identity={home / name}.key", *more)


def reason_of(process: Brigade) -> str:
    process.ready()
    return process.wait_for("no_workers", 60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_gateway_that_sees_nobody_says_what_to_compare(
    start: Start, join: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("BRIGADE_SWARM_SECRET", raising=False)
    model = save(build("llama"), tmp_path / "tiny")
    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"note": "another revision"}))
    secret = tmp_path / "secret"
    secret.write_text("not the secret of this swarm\n")
    worker(start, tmp_path, "w", f"--model={model}", f"--join={join}", "--blocks=all").ready()
    revised = gateway(
        start, tmp_path, "a", f"--model={other}", "--model-name=tiny", f"--join={join}"
    )
    secretive = gateway(
        start, tmp_path, "b", f"--model={model}", f"--join={join}", f"--swarm-secret-file={secret}"
    )
    nowhere = f"/ip4/127.0.0.1/tcp/1/p2p/{join.rpartition('/')[2]}"
    alone = gateway(start, tmp_path, "c", f"--join={nowhere}")
    assert "the workers of tiny have revision" in reason_of(revised)
    assert "its secret is another" in reason_of(secretive)
    assert "cannot_join" in alone.wait_for("cannot_join", 60)
    assert "no node of the swarm is known that answers" in reason_of(alone)
    stranger = worker(start, tmp_path, "s", f"--join={join}")
    assert stranger.exit_code() == 2
    assert "none of them is on the hub" in stranger.lines[-1]
    assert not any("Traceback" in one.output for one in (revised, secretive, alone, stranger))


def test_a_worker_that_is_told_no_model_helps_the_one_that_lacks_blocks(
    start: Start, join: str, tmp_path: Path
):
    model = save(build("llama"), tmp_path / "tiny")
    worker(start, tmp_path, "a", f"--model={model}", f"--join={join}", "--blocks=all").ready()
    worker(start, tmp_path, "b", f"--join={join}", "--blocks=0:5").ready()
    serving = gateway(start, tmp_path, "g", f"--join={join}")
    url = serving.ready()["url"]
    volunteer = worker(start, tmp_path, "v", f"--join={join}", "--max-blocks=3")
    state = volunteer.ready()
    assert (state["start"], state["end"]) == (5, 8)
    assert "needs help most: nobody hosts 3 of its blocks" in volunteer.output
    wait_until(lambda: httpx.get(f"{url}/ready").status_code == 200, 30, "every block covered")
    volunteer.signal(signal.SIGTERM)
    assert volunteer.exit_code(30) == 0
