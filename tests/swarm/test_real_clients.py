"""Clients of other makers, each in an environment of its own, against a real swarm.

`make clients` brings them; what each has to see is in its script in tests/clients.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.swarm.conftest import Swarm, Up

SCRIPTS = Path(__file__).parents[1] / "clients"
ENVIRONMENTS = SCRIPTS.parents[1] / ".clients"
SECONDS = 300

PYTHON = [
    ("openai_newest", "openai_python.py"),
    ("openai_1", "openai_python.py"),
    ("anthropic", "anthropic_python.py"),
    ("frameworks", "langchain_python.py"),
    ("frameworks", "objects_python.py"),
    ("litellm", "litellm_python.py"),
]
NODE = [
    ("node", "openai.mjs"),
    ("node", "anthropic.mjs"),
    ("node", "ai_sdk.mjs"),
    ("node_openai_6", "openai.mjs"),
]

pytestmark = [pytest.mark.clients, pytest.mark.timeout(SECONDS + 60)]


@pytest.fixture(scope="module")
def swarm(up: Up) -> Swarm:
    """Three spans of the bundled model."""
    return up()


def run(swarm: Swarm, *command: str | Path, cwd: Path) -> None:
    environment = {**os.environ, "GATEWAY": swarm.url}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(("environment", "script"), PYTHON)
def test_a_client_for_python(swarm: Swarm, environment: str, script: str):
    run(swarm, ENVIRONMENTS / environment / "bin/python", SCRIPTS / script, cwd=SCRIPTS)


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
@pytest.mark.parametrize(("environment", "script"), NODE)
def test_a_client_for_node(swarm: Swarm, environment: str, script: str):
    home = ENVIRONMENTS / environment
    for source in (SCRIPTS / "node").glob("*.mjs"):  # packages are looked for beside a script
        shutil.copy(source, home)
    brought = home / "node_modules/.bin/node"
    run(swarm, brought if brought.exists() else "node", script, cwd=home)
