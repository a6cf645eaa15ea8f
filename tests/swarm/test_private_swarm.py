"""A private swarm of real processes: members answer, a stranger finds nobody."""

import json
from pathlib import Path

import httpx
import pytest

from tests.swarm.conftest import Start
from tests.swarm.processes import swarm_of, wait_until


def test_members_serve_and_strangers_find_nobody(
    start: Start, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("BRIGADE_SWARM_SECRET", raising=False)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text("correct horse battery staple\n")
    theirs.write_text("wrong horse battery staple\n")
    bootstrap = start("bootstrap", "--port=0")
    join = bootstrap.wait_for("bootstrap ready: ").partition("ready: ")[2]
    common = (f"--model={directory}", f"--join={join}")
    worker = start(
        "worker",
        *common,
        "--blocks=0:6",
        "--tls=on",
        "--dtype=float32",
        "--threads=1",
        f"--swarm-secret-file={ours}",
    )
    assert worker.ready()["url"].startswith("wss://")
    urls = {
        secret: start(
            "gateway",
            *common,
            "--port=0",
            f"--identity={tmp_path / secret.name}.key",
            f"--swarm-secret-file={secret}",
        ).ready()["url"]
        for secret in (ours, theirs)
    }
    wait_until(lambda: httpx.get(f"{urls[ours]}/ready").status_code == 200, 30, "a route")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    answer = httpx.post(f"{urls[ours]}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert swarm_of(urls[theirs])["workers"] == []
    assert json.dumps(swarm_of(urls[theirs])).count("wss://") == 0
