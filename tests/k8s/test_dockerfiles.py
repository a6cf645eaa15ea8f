"""The Dockerfiles copy what is there, set what are settings, and end as nobody in particular."""

import fnmatch
import re
from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from shared.bootstrap import BootstrapSettings
from shared.brigade import COMMANDS
from shared.commands import settings_of
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "k8s" / "images").glob("*.Dockerfile"))
VARIABLES = {
    setting.variable
    for settings in (GatewaySettings, WorkerSettings, BootstrapSettings)
    for setting in settings_of(settings)
}


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its arguments on one line."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]  # type: ignore[misc]


def arguments(path: Path, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(path) if instruction == name]


def is_sent(name: str) -> bool:
    """Whether `.dockerignore` lets a name at the top through; the last line that matches counts."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatch.fnmatch(name, line.removeprefix("!")):
            sent = line.startswith("!")
    return sent


def test_there_is_one_for_a_gateway_and_one_for_a_worker():
    assert [path.name for path in FILES] == ["gateway.Dockerfile", "worker.Dockerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_not_ignored(path: Path):
    copied = [copy.split() for copy in arguments(path, "COPY") if "--from" not in copy]
    sources = [source for *names, _ in copied for source in names]
    assert {"shared", "gateway", "worker", "pyproject.toml", "constraints.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_sent(source), source
    assert not is_sent(".git")
    assert not is_sent(".env")
    assert not is_sent(".venv")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_variables_of_ours_are_settings_and_the_command_is_one(path: Path):
    (env,) = arguments(path, "ENV")
    ours = set(re.findall(r"\b((?:GATEWAY|WORKER|BOOTSTRAP)_\w+)=", env))
    assert ours
    assert ours <= VARIABLES
    assert arguments(path, "ENTRYPOINT") == ['["brigade"]']
    (command,) = arguments(path, "CMD")
    assert command.strip('[]"') in COMMANDS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_runs_as_a_numbered_user_that_is_not_root(path: Path):
    assert arguments(path, "USER") == ["10001:10001"]  # a number: runAsNonRoot cannot judge names


def test_the_gateway_s_image_has_no_torch():
    installs = " ".join(arguments(FILES[0], "RUN"))
    assert "torch" not in installs
    assert "[worker]" not in installs
