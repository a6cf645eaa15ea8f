"""Swarms of real processes on loopback."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from transformers import PreTrainedModel

from tests.models import build, save
from tests.swarm.processes import Brigade

Up = Callable[..., "Swarm"]
Start = Callable[..., Brigade]


@dataclass(frozen=True)
class Swarm:
    """A running `brigade up`."""

    process: Brigade
    state: dict[str, Any]
    clients: list[OpenAI] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The gateway's address."""
        return self.state["gateway"]["url"]

    def client(self) -> OpenAI:
        """The official SDK, pointed at the gateway, not retrying."""
        made = OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=60)
        self.clients.append(made)
        return made


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """A tiny random llama."""
    return build("llama")


@pytest.fixture(scope="module")
def directory(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, on disk."""
    return save(model, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `brigade` commands and stops them all at the end."""
    started: list[Brigade] = []

    def start_one(*arguments: str) -> Brigade:
        started.append(Brigade(*arguments, home=tmp_path))
        return started[-1]

    yield start_one
    for process in reversed(started):
        process.stop()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Brings up whole swarms, each once a module, and stops them at its end."""
    swarms: list[Swarm] = []

    def bring_up(model: Path | str = "", *options: str) -> Swarm:
        home = tmp_path_factory.mktemp("swarm")
        state_file = home / "state.json"
        process = Brigade(
            "up",
            f"--model={model}",
            "--port=0",
            "--dtype=float32",
            "--threads=1",
            f"--state-file={state_file}",
            *options,
            home=home,
        )
        swarms.append(Swarm(process, {}))
        process.wait_for("the swarm is up")
        swarms[-1] = Swarm(process, json.loads(state_file.read_text()))
        return swarms[-1]

    yield bring_up
    for swarm in swarms:
        for client in swarm.clients:
            client.close()
        swarm.process.stop()
