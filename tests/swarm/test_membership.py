"""Processes started by hand, one by one: who is seen, when, and what survives whom."""

import signal
from pathlib import Path

import httpx

from tests.models import build, save
from tests.swarm.conftest import Start
from tests.swarm.processes import Brigade, swarm_of, wait_until


def bootstrap(start: Start) -> tuple[Brigade, str]:
    process = start("bootstrap", "--port=0")
    return process, process.wait_for("bootstrap ready: ").partition("ready: ")[2].strip()


def worker(start: Start, home: Path, name: str, join: str, blocks: str, *more: str) -> Brigade:
    return start(
        "worker",
        f"--join={join}",
        f"--blocks={blocks}",
        f"--identity={home / name}.key",
        "--threads=1",
        "--kv-tokens=4096",
        *more,
    )


def ask(url: str) -> httpx.Response:
    body = {"model": "brigade-tiny", "messages": [{"role": "user", "content": "Who are you?"}]}
    return httpx.post(f"{url}/v1/chat/completions", json={**body, "temperature": 0}, timeout=30)


def test_the_swarm_outlives_its_bootstrap_node_and_sees_who_joins_and_who_goes_silent(
    start: Start, tmp_path: Path
):
    first, address = bootstrap(start)
    gateway = start("gateway", f"--join={address}", "--port=0", f"--identity={tmp_path / 'g'}.key")
    ann = worker(start, tmp_path, "ann", address, "0:5")
    url = gateway.ready()["url"]
    ann_state = ann.ready()
    wait_until(lambda: len(swarm_of(url)["workers"]) == 1, 5, "ann is seen")
    answer = ask(url)
    assert answer.status_code == 503
    assert "5:8" in answer.json()["error"]["message"]

    first.signal(signal.SIGKILL)
    bob = worker(start, tmp_path, "bob", ann_state["multiaddrs"][0], "3:8")  # overlaps ann
    bob.ready()
    wait_until(lambda: swarm_of(url)["complete"], 5, "bob is seen through ann alone")
    assert ask(url).status_code == 200
    metrics = httpx.get(f"{url}/metrics").text
    assert "brigade_gateway_workers 2.0" in metrics
    assert 'http_requests_total{route="/v1/chat/completions",status="200"} 1.0' in metrics

    bob.signal(signal.SIGSTOP)
    wait_until(lambda: not swarm_of(url)["complete"], 15, "a silent worker leaves the view")
    bob.signal(signal.SIGCONT)
    wait_until(lambda: swarm_of(url)["complete"], 15, "and comes back when it speaks again")

    bob.signal(signal.SIGTERM)
    assert bob.exit_code(20) == 0
    wait_until(lambda: not swarm_of(url)["complete"], 2, "a worker that leaves covers nothing")
    gateway.signal(signal.SIGTERM)
    assert gateway.exit_code(20) == 0


def test_an_identity_is_made_once_and_kept(start: Start, tmp_path: Path):
    one = worker(start, tmp_path, "ann", "", "0:2")
    peer = one.ready()["peer_id"]
    one.signal(signal.SIGTERM)
    assert one.exit_code(20) == 0
    assert (tmp_path / "ann.key").stat().st_mode & 0o077 == 0
    assert worker(start, tmp_path, "ann", "", "0:2").ready()["peer_id"] == peer


def test_a_worker_without_blocks_takes_the_whole_model(start: Start, tmp_path: Path):
    model = save(build("qwen2"), tmp_path / "whole")
    state = start(
        "worker", f"--model={model}", f"--identity={tmp_path / 'w'}.key", "--threads=1"
    ).ready()
    assert (state["start"], state["end"]) == (0, 6)
