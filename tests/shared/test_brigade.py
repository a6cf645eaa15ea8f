"""`brigade` runs one of its commands, or says in one line why it does not."""

import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata

import pytest

from shared import brigade
from shared.errors import BrigadeError, ConfigError, NoRoute

Run = Callable[[list[str]], int]


class Installed:
    """Stands in for an entry point."""

    def __init__(self, name: str, main: Run) -> None:
        self.name = name
        self._main = main

    def load(self) -> Run:
        return self._main


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Run], None]:
    """Makes a function the only installed command."""

    def install(name: str, main: Run) -> None:
        monkeypatch.setattr(metadata, "entry_points", lambda group: [Installed(name, main)])

    return install


def raising(error: BaseException) -> Run:
    def main(argv: list[str]) -> int:
        raise error

    return main


def test_alone_it_teaches(capsys: pytest.CaptureFixture[str]):
    assert brigade.main([]) == 0
    text = capsys.readouterr().out
    for command in brigade.COMMANDS:
        assert f"  {command} " in text
    assert "A swarm is" in text
    assert text.count("\n  brigade ") == 3


def test_it_knows_its_version(capsys: pytest.CaptureFixture[str]):
    assert brigade.main(["--version"]) == 0
    assert capsys.readouterr().out == f"brigade {metadata.version('bucket-brigade')}\n"


def test_every_command_it_teaches_is_an_entry_point():
    entry_points = metadata.entry_points(group=brigade.GROUP)
    assert set(brigade.COMMANDS) == {entry_point.name for entry_point in entry_points}


def test_a_command_gets_its_arguments_and_gives_the_status(install: Callable[[str, Run], None]):
    seen: list[list[str]] = []
    install("worker", lambda argv: seen.append(argv) or 3)
    assert brigade.main(["worker", "--help", "x"]) == 3
    assert seen == [["--help", "x"]]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["wroker"], "brigade wroker: there is no such command; did you mean worker?"),
        (["zzz"], "brigade zzz: there is no such command; there are up, worker, gateway, "),
        (["--port", "1"], "brigade --port: there is no such option;"),
    ],
)
def test_an_unknown_command_gets_the_nearest_one(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
):
    assert brigade.main(argv) == 2
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConfigError("no such model"), 2), (NoRoute("blocks 0:4"), 1), (BrigadeError("x"), 1)],
)
def test_our_errors_are_one_line_and_a_status(
    error: BrigadeError,
    status: int,
    install: Callable[[str, Run], None],
    capsys: pytest.CaptureFixture[str],
):
    install("gateway", raising(error))
    assert brigade.main(["gateway"]) == status
    assert capsys.readouterr().err == f"brigade gateway: {error}\n"


def test_a_missing_package_names_the_extra_that_brings_it(
    install: Callable[[str, Run], None], capsys: pytest.CaptureFixture[str]
):
    install("worker", raising(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")))
    assert brigade.main(["worker"]) == 2
    line = capsys.readouterr().err
    assert "the Python package torch is not installed" in line
    assert "pip install 'bucket-brigade[worker]'" in line


def test_a_missing_module_of_ours_is_our_mistake_and_shows_its_traceback(
    install: Callable[[str, Run], None],
):
    install("worker", raising(ModuleNotFoundError("No module named 'worker.x'", name="worker.x")))
    with pytest.raises(ModuleNotFoundError):
        brigade.main(["worker"])


def test_an_interrupt_is_status_130(install: Callable[[str, Run], None]):
    install("worker", raising(KeyboardInterrupt()))
    assert brigade.main(["worker"]) == 130


def test_without_installation_it_says_how_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(metadata, "entry_points", lambda group: [])
    assert brigade.main(["worker"]) == 2
    assert "pip install -e ." in capsys.readouterr().err


ENDLESS = """
import sys, time
from shared import brigade
brigade._main_of = lambda name, argv: print("running", flush=True) or time.sleep(60)
sys.exit(brigade.main(["--stop-at-eof", "worker"]))
"""


def test_it_stops_when_its_starter_is_gone():
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"running\n"
        process.stdin.close()
        assert process.wait(timeout=20) == -signal.SIGTERM
