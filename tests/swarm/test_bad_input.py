"""Operators' mistakes: one sentence that names the thing, exit status 2, no traceback."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.models import build, save
from tests.swarm.conftest import Start
from tests.swarm.processes import swarm_of, wait_until


def broken(change: Callable[[Path], None]) -> Callable[[Path], list[str]]:
    """A worker over a model directory that `change` has spoiled."""

    def arguments(home: Path) -> list[str]:
        directory = save(build("llama"), home / "model")
        change(directory)
        return ["worker", f"--model={directory}"]

    return arguments


def drop_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def spoil_config(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def unknown_family(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "alien"}))


def cut_shard(directory: Path) -> None:
    shard = sorted(directory.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:200])


def drop_shard(directory: Path) -> None:
    sorted(directory.glob("*.safetensors"))[0].unlink()


def only_a_pickle(directory: Path) -> None:
    for file in directory.glob("model*"):
        file.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80")


MISTAKES = {
    "no config": (broken(drop_config), "config.json"),
    "config is not JSON": (broken(spoil_config), "config.json"),
    "unknown family": (broken(unknown_family), "alien"),
    "corrupt shard": (broken(cut_shard), "model-00001"),
    "missing shard": (broken(drop_shard), "model-00001"),
    "pickled weights": (broken(only_a_pickle), "pytorch_model.bin"),
    "blocks out of range": (lambda home: ["worker", "--blocks=4:99"], "4:99"),
    "blocks in reverse": (lambda home: ["worker", "--blocks=5:2"], "5:2"),
    "no such model": (lambda home: ["worker", "--model=./nowhere"], "nowhere"),
    "malformed address": (lambda home: ["gateway", "--join=nonsense"], "nonsense"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_status_2(mistake: str, start: Start, tmp_path: Path):
    arguments, named = MISTAKES[mistake]
    process = start(*arguments(tmp_path))
    assert process.exit_code() == 2, process.output
    assert named in process.output
    assert "Traceback" not in process.output
    lines = [line for line in process.lines if not line.startswith("worker: ")]
    assert len(lines) == 1, process.output


@pytest.mark.parametrize("command", ["gateway", "worker", "bootstrap"])
def test_a_taken_port_is_named(command: str, start: Start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(command, f"--port={port}")
        assert process.exit_code() == 2, process.output
    assert str(port) in process.output
    assert "Traceback" not in process.output


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk without a free byte."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk is mounted by root alone")
    try:
        (folder / "all of it").write_bytes(bytes(64 << 10))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("bootstrap", "--port=0", "--identity={}/a.key"),
        ("gateway", "--port=0", "--state-file={}/state.json"),
        ("worker", "--blocks=0:1", "--threads=1", "--identity={}/a.key"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_full_disk_is_named(arguments: tuple[str, ...], start: Start, full_disk: Path):
    process = start(*(argument.format(full_disk) for argument in arguments))
    assert process.exit_code() == 2, process.output
    assert f"{full_disk}" in process.lines[-1]
    assert "No space left on device" in process.lines[-1]
    assert "Traceback" not in process.output


def test_a_worker_with_a_wrong_clock_is_told_so_and_comes_when_it_is_set(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bootstrap = start("bootstrap", "--port=0")
    join = bootstrap.wait_for("bootstrap ready: ").partition("ready: ")[2].strip()
    gateway = start("gateway", "--port=0", f"--join={join}", f"--identity={tmp_path / 'g'}.key")
    ahead = tmp_path / "ahead"
    ahead.write_text("400")
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n"
        "real = time.time\n"
        f"time.time = lambda: real() + float(open({str(ahead)!r}).read())\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    worker = start(
        *("worker", f"--join={join}", "--blocks=all", "--threads=1", "--kv-tokens=1024"),
        f"--identity={tmp_path / 'w'}.key",
    )
    said = worker.wait_for("record_refused")
    assert "400 s ahead" in said or "399 s ahead" in said
    assert "clock" in said
    url = gateway.ready()["url"]
    assert swarm_of(url)["workers"] == []
    ahead.write_text("0")
    wait_until(lambda: len(swarm_of(url)["workers"]) == 1, 30, "the worker is believed")
    assert "Traceback" not in worker.output + gateway.output
