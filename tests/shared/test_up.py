"""`brigade up` deals out the blocks, starts every process and ends every process.

The processes here are stand-ins that print the real ones' lines; tests/swarm has the real ones.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.settings import GatewaySettings
from shared import child, up
from shared.bootstrap import BootstrapSettings
from shared.child import ChildEnded, describe_exit
from shared.commands import parse
from shared.demo import curl_line, piece_of
from shared.errors import BrigadeError, ConfigError, GenerationFailed, ModelError
from shared.swarm import Span, uncovered
from shared.up import UpSettings, deal, worker_names
from worker.settings import WorkerSettings

STAND_IN = Path(__file__).with_name("stand_in.py")
NUM_BLOCKS = 6


def test_blocks_are_dealt_out_evenly():
    assert deal(6, 3) == [Span(0, 2), Span(2, 4), Span(4, 6)]
    assert deal(7, 3) == [Span(0, 3), Span(3, 5), Span(5, 7)]
    assert deal(5, 1) == [Span(0, 5)]


def test_dealt_blocks_tile_the_model_and_differ_by_one_at_most():
    for num_blocks in range(1, 40):
        for num_spans in range(1, num_blocks + 1):
            spans = deal(num_blocks, num_spans)
            assert len(spans) == num_spans
            assert uncovered(spans, Span(0, num_blocks)) == []
            assert sum(map(len, spans)) == num_blocks
            assert max(map(len, spans)) - min(map(len, spans)) <= 1


def test_more_workers_than_blocks_is_refused_with_both_numbers():
    with pytest.raises(ConfigError, match="--workers 9 is more than the model's 8 blocks"):
        deal(8, 9)


def test_replicas_host_every_span_once_more():
    spans = [Span(0, 2), Span(2, 4)]
    assert worker_names(spans, 1) == {"worker 0:2": spans[0], "worker 2:4": spans[1]}
    assert list(worker_names(spans, 2).items()) == [
        ("worker 0:2 #1", spans[0]),
        ("worker 2:4 #1", spans[1]),
        ("worker 0:2 #2", spans[0]),
        ("worker 2:4 #2", spans[1]),
    ]


def test_command_lines_leave_nothing_of_ours_to_the_environment():
    key, settings = Path("k"), UpSettings(model="m/n", port=9, dtype="float32", threads=2)
    worker = " ".join(up.worker_arguments(settings, key, Span(0, 2), "/p2p/x"))
    gateway = " ".join(up.gateway_arguments(settings, key, "/p2p/x"))
    assert worker.startswith("worker --model m/n --model-name m/n --blocks 0:2 --join /p2p/x")
    assert "--port 0" in worker
    assert "--dtype float32 --device auto --quant none --threads 2" in worker
    assert gateway.startswith("gateway --model m/n --model-name m/n --host 127.0.0.1 --port 9")
    assert "--join /p2p/x" in gateway


def test_command_lines_are_options_that_the_commands_have(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BOOTSTRAP_JOIN", "/ip4/127.0.0.1/tcp/2/p2p/elsewhere")
    join, key, settings = "/ip4/127.0.0.1/tcp/1/p2p/x", Path("k"), UpSettings()
    bootstrap = up.bootstrap_arguments(settings, key)
    worker = up.worker_arguments(settings, key, Span(0, 2), join)
    gateway = up.gateway_arguments(settings, key, join)
    assert parse(BootstrapSettings, bootstrap[1:], prog="b").join == []
    assert parse(WorkerSettings, worker[1:], prog="w").blocks == "0:2"
    assert parse(GatewaySettings, gateway[1:], prog="g").join == [join]


def test_a_taken_port_is_refused_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is taken"):
            up.check_port("127.0.0.1", port)
    up.check_port("127.0.0.1", 0)


def test_an_exit_is_told_as_a_status_or_a_signal():
    assert describe_exit(3) == "with status 3"
    assert describe_exit(-9) == "by SIGKILL"


def test_a_chunk_without_text_is_empty_and_an_error_is_raised():
    assert piece_of({"choices": [{"delta": {"role": "assistant", "content": None}}]}) == ""
    assert piece_of({"choices": []}) == ""
    with pytest.raises(GenerationFailed, match="no worker"):
        piece_of({"error": {"message": "no worker"}})


def test_the_curl_line_survives_a_question_with_quotes():
    line = curl_line("http://x", "m", "what's up?")
    assert "what'\\''s up?" in line


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., UpSettings]:
    """Settings of a swarm of stand-ins; `breaks` names a command and how it misbehaves."""
    monkeypatch.setattr(child, "BRIGADE", (sys.executable, str(STAND_IN)))
    monkeypatch.setattr(up, "GRACE_SECONDS", dict.fromkeys(up.GRACE_SECONDS, 2.0))
    (tmp_path / "config.json").write_text(
        json.dumps({"num_hidden_layers": NUM_BLOCKS, "hidden_size": 8, "vocab_size": 9})
    )

    def settings(breaks: str = "", **options: object) -> UpSettings:
        monkeypatch.setenv("STAND_IN_BREAKS", breaks)
        values = {"model": str(tmp_path), "port": 0, "state_file": tmp_path / "state.json"}
        return UpSettings.model_validate(values | options)

    return settings


def our_children() -> list[psutil.Process]:
    """All but the process in which other tests here had grammars tried."""
    return [one for one in psutil.Process().children() if "shared.trial" not in one.cmdline()]


async def state_in(path: Path) -> dict[str, Any]:
    """What the state file says, once it is there."""

    def wait() -> dict[str, Any]:
        while not path.exists():
            time.sleep(0.02)
        return json.loads(path.read_text())

    return await asyncio.to_thread(wait)


async def test_it_comes_up_answers_and_stops(
    stand_ins: Callable[..., UpSettings], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert await up.run(stand_ins(replicas=2, ask="Who are you?", once=True)) == 0
    output = capfd.readouterr().out
    assert "worker 0:2 #1: loading blocks 0:2 (40%)" in output
    assert "worker 4:6 #2: ready" in output
    assert "> Who are you?\n\nA stand-in.\n" in output
    assert "  join    /ip4/127.0.0.1/tcp/1/p2p/x\n" in output  # for worker, status and plan
    assert "/v1/chat/completions" in output
    state = json.loads((tmp_path / "state.json").read_text())
    assert set(state) == {"gateway", "bootstrap", "workers"}
    assert [(worker["start"], worker["end"]) for worker in state["workers"]] == [
        (0, 2),
        (2, 4),
        (4, 6),
    ] * 2
    assert state["gateway"]["url"].startswith("http://127.0.0.1:")
    assert not our_children()


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        ("bootstrap exits", "bootstrap .* ended with status 3\n  bootstrap: out of flour"),
        ("worker exits", r"worker \d:\d .* ended with status 3\n  worker: out of flour"),
        ("worker dies", r"worker \d:\d .* ended by SIGKILL"),
        ("gateway exits", "gateway .* ended with status 3"),
    ],
)
async def test_a_process_that_ends_early_ends_all_and_is_the_reason(
    breaks: str, reason: str, stand_ins: Callable[..., UpSettings], tmp_path: Path
):
    with pytest.raises(ChildEnded, match=reason):
        await up.run(stand_ins(breaks))
    assert not our_children()
    assert not (tmp_path / "state.json").exists()


async def test_a_swarm_that_never_gets_ready_is_given_up(stand_ins: Callable[..., UpSettings]):
    with pytest.raises(BrigadeError, match="not ready after 3 seconds: No yeast"):
        await up.run(stand_ins("gateway unready", start_timeout_seconds=3.0))
    assert not our_children()


async def test_a_process_deaf_to_sigterm_is_killed(
    stand_ins: Callable[..., UpSettings], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(up, "GRACE_SECONDS", dict.fromkeys(up.GRACE_SECONDS, 0.2))
    assert await up.run(stand_ins("worker deaf", once=True)) == 0
    assert not our_children()


async def test_a_worker_that_dies_later_stays_down_and_a_signal_stops_the_rest(
    stand_ins: Callable[..., UpSettings], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    running = asyncio.create_task(up.run(stand_ins()))
    state = await state_in(tmp_path / "state.json")
    victim = state["workers"][1]["pid"]
    os.kill(victim, signal.SIGKILL)
    output = ""
    while "stays down" not in output:
        await asyncio.sleep(0.02)
        output += capfd.readouterr().out
    assert f"worker 2:4 (pid {victim}) ended by SIGKILL" in output
    assert len(our_children()) == 4
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 128 + signal.SIGTERM
    assert not our_children()


async def test_without_its_gateway_the_swarm_ends(
    stand_ins: Callable[..., UpSettings], tmp_path: Path
):
    running = asyncio.create_task(up.run(stand_ins()))
    state = await state_in(tmp_path / "state.json")
    os.kill(state["gateway"]["pid"], signal.SIGKILL)
    with pytest.raises(ChildEnded, match=r"gateway .* ended by SIGKILL"):
        await running
    assert not our_children()


async def test_no_model_or_too_many_workers_start_nothing(stand_ins: Callable[..., UpSettings]):
    with pytest.raises(ModelError, match="no such directory"):
        await up.run(stand_ins(model="/no/such/model"))
    with pytest.raises(ConfigError, match="--workers 7 is more than the model's 6 blocks"):
        await up.run(stand_ins(workers=7))


UP = """
import sys
from gateway.settings import GatewaySettings
from shared import child, up
from shared.bootstrap import BootstrapSettings
child.BRIGADE = (sys.executable, sys.argv.pop(1))
sys.exit(up.main(sys.argv[1:]))
"""


async def test_when_it_is_killed_its_processes_end(
    stand_ins: Callable[..., UpSettings], tmp_path: Path
):
    stand_ins()
    state_file = tmp_path / "state.json"
    command = [sys.executable, "-c", UP, str(STAND_IN), "--model", str(tmp_path), "--port", "0"]
    with subprocess.Popen(  # noqa: ASYNC220
        [*command, "--state-file", str(state_file)], stdout=subprocess.DEVNULL
    ) as process:
        await state_in(state_file)
        children = psutil.Process(process.pid).children()
        process.kill()
    assert len(children) == 5
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
