"""Operators' mistakes: one sentence that names the thing, exit status 2, no traceback."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import build, save
from tests.swarm.conftest import Start


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
