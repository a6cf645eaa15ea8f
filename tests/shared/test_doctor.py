"""`brigade doctor` measures real sockets, files and swarms, and says what it found."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared import checkup, doctor, probes
from shared.checkup import examine
from shared.discovery.kademlia import KademliaDirectory
from shared.doctor_settings import BootstrapDoctor, GatewayDoctor, WorkerDoctor
from shared.errors import ConfigError
from shared.findings import Finding, ok, problem, warning
from shared.identity import Identity
from shared.model_files import BUNDLED, BUNDLED_NAME, read_spec
from shared.swarm import GATEWAYS, Span, topic_of
from tests.shared.announcing import ANN, BOB, CYD, live_record

DEE = Identity(bytes([7]) * 32)
SPEC = read_spec(BUNDLED, BUNDLED_NAME)


@pytest.fixture(autouse=True)
def _no_time_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probes, "ntp_skew", lambda: None)


def of(found: list[Finding], check: str) -> Finding:
    return next(finding for finding in found if finding.check == check)


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., WorkerDoctor]:
    def make(**changes: object) -> WorkerDoctor:
        return WorkerDoctor.model_validate({"identity": tmp_path / "worker.key"} | changes)

    return make


async def test_a_sound_machine_has_no_problem(settings: Callable[..., WorkerDoctor]):
    found = await examine("worker", settings())
    assert [finding for finding in found if finding.level == "problem"] == []
    assert {finding.check for finding in found} >= {
        *("python", "packages", "gpu", "identity", "model", "open files", "port", "address"),
        *("reach", "join", "clock"),
    }


async def test_a_taken_port_is_a_problem(settings: Callable[..., WorkerDoctor]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = await checkup.port(settings(port=taken.getsockname()[1]))
    assert [finding.level for finding in found] == ["problem"]
    assert "in use" in found[0].says


async def test_an_address_of_no_machine_is_a_problem(settings: Callable[..., WorkerDoctor]):
    (found,) = await checkup.port(settings(host="192.0.2.200"))
    assert found.level == "problem"


async def test_the_announced_address_is_dialled_and_must_end_here(
    settings: Callable[..., WorkerDoctor], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(probes, "ANSWER_SECONDS", 0.5)
    here = await checkup.port(settings())
    assert of(here, "reach").level == "ok"
    with socket.create_server(("127.0.0.1", 0)) as somebody_else:
        port = somebody_else.getsockname()[1]
        there = await checkup.port(settings(public_url=f"ws://127.0.0.1:{port}"))
    assert of(there, "reach").level == "warning"
    assert f"127.0.0.1:{port}" in of(there, "reach").says


async def test_a_public_url_with_no_such_port_is_a_problem(settings: Callable[..., WorkerDoctor]):
    (found,) = await checkup.port(settings(public_url="ws://swarm.example.org:99999"))
    assert (found.check, found.level) == ("address", "problem")


async def test_what_may_not_be_looked_at_is_a_problem_and_no_traceback(
    settings: Callable[..., WorkerDoctor], monkeypatch: pytest.MonkeyPatch
):
    def refuse(path: Path) -> Identity:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Identity, "load_or_create", refuse)
    settings().identity.touch()
    found = await examine("bootstrap", settings())
    assert of(found, "system").says == f"{settings().identity}: Permission denied"
    assert of(found, "clock")  # the others go on


async def test_a_gateway_announces_no_address(tmp_path: Path):
    found = await checkup.port(GatewayDoctor(port=0, identity=tmp_path / "k"))
    assert [finding.check for finding in found] == ["port"]


@pytest.mark.parametrize(
    ("public", "announced"),
    [
        ("", ("127.0.0.1", 4001)),
        ("swarm.example.org", ("swarm.example.org", 4001)),
        ("/dns4/swarm.example.org/tcp/443", ("swarm.example.org", 443)),
    ],
)
def test_a_bootstrap_node_s_address_may_be_a_name_or_a_multiaddr(
    public: str, announced: tuple[str, int]
):
    settings = BootstrapDoctor(public_address=public)
    assert checkup.announced(settings, 4001) == (*announced, "--public-address")


async def test_an_identity_is_left_as_it_is(settings: Callable[..., WorkerDoctor]):
    (new,) = await checkup.identity(settings())
    assert "will be made on first use" in new.says
    assert not settings().identity.exists()


async def test_a_broken_open_or_shared_identity_is_told(settings: Callable[..., WorkerDoctor]):
    path = settings().identity
    path.write_text("not hex\n")
    (broken,) = await checkup.identity(settings())
    assert broken.level == "problem"
    path.unlink()
    held = Identity.claim(path)
    (used,) = await checkup.identity(settings())
    assert (used.level, "in use by another process" in used.says) == ("warning", True)
    held.release()
    path.chmod(0o644)
    (readable,) = await checkup.identity(settings())
    assert readable.remedy == f"chmod 600 {path}"


async def test_a_model_that_is_not_there_is_a_problem(
    settings: Callable[..., WorkerDoctor], tmp_path: Path
):
    (missing,) = await checkup.models(settings(model=[str(tmp_path / "none")]))
    assert missing.level == "problem"
    (tmp_path / "config.json").write_bytes((BUNDLED / "config.json").read_bytes())
    (no_text,) = await checkup.models(settings(model=[str(tmp_path)]))
    assert "tokenizer" in no_text.says
    (tmp_path / "tokenizer.json").write_text("{}")
    (no_weights,) = await checkup.models(settings(model=[str(tmp_path)]))
    assert (no_weights.level, "safetensors" in no_weights.says) == ("warning", True)


async def test_the_swarm_is_really_joined_and_its_workers_dialled(
    settings: Callable[..., WorkerDoctor],
):
    facts = {
        "swarm": "local",
        "model": SPEC.name,
        "revision": SPEC.revision,
        "num_blocks": SPEC.num_blocks,
        "span": Span(0, 1),
    }
    member = KademliaDirectory(CYD)
    await member.start()
    with socket.create_server(("127.0.0.1", 0)) as alive:
        url = f"ws://127.0.0.1:{alive.getsockname()[1]}"
        topic = f"local/{SPEC.name}@{SPEC.revision}"
        await member.announce(topic, live_record(ANN, url=url, **facts))
        await member.announce(topic, live_record(BOB, url="ws://127.0.0.1:1", **facts))
        hidden = {"url": "", "attached": (BOB.peer,)}
        await member.announce(topic, live_record(DEE, **facts, **hidden))
        nowhere = f"/ip4/127.0.0.1/tcp/1/p2p/{ANN.peer}"
        joining = settings(join=[*member.multiaddrs, nowhere])
        there, nobody = await checkup.join("worker", joining)
        found = await checkup.swarm(joining)
    await member.stop()
    assert (there.level, nobody.level) == ("ok", "problem")
    assert of(found, "workers").level == "warning"
    assert "1 of 2 cannot be dialled from here: ws://127.0.0.1:1" in of(found, "workers").says
    assert of(found, "attached").says.startswith("1 that nobody can dial")
    assert of(found, "clock").level == "ok"
    assert "the swarm's workers" in of(found, "clock").says


async def test_a_join_address_that_names_no_peer_is_a_problem(
    settings: Callable[..., WorkerDoctor],
):
    (found,) = await checkup.join("worker", settings(join=["/ip4/127.0.0.1/tcp/1/p2p/nobody"]))
    assert found.level == "problem"


@pytest.fixture
def time_server() -> Iterator[Callable[[bytes], tuple[str, int]]]:
    """Answers one question with what it is given."""
    threads: list[threading.Thread] = []

    def serve(answer: bytes) -> tuple[str, int]:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))

        def reply() -> None:
            with udp:
                udp.sendto(answer, udp.recvfrom(64)[1])

        threads.append(threading.Thread(target=reply))
        threads[-1].start()
        return udp.getsockname()

    yield serve
    for thread in threads:
        thread.join(5)


def ntp_answer(at: float, *, mode: int = 4, stratum: int = 2) -> bytes:
    seconds = int(at) + probes.NTP_EPOCH_SECONDS
    head = bytes([0x20 | mode, stratum])
    return head + bytes(38) + struct.pack("!II", seconds, int(at % 1 * 2**32))


def test_a_time_server_says_how_far_the_clock_is_off(
    time_server: Callable[[bytes], tuple[str, int]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.undo()
    skew = probes.ntp_skew(time_server(ntp_answer(time.time() - 100)))
    assert skew == pytest.approx(100, abs=2)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x24\x02", ntp_answer(0, mode=3), ntp_answer(0, stratum=0), ntp_answer(0, stratum=16)],
)
def test_what_is_no_time_server_s_answer_says_nothing(
    answer: bytes,
    time_server: Callable[[bytes], tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.undo()
    assert probes.ntp_skew(time_server(answer)) is None


def test_the_report_has_a_line_a_finding_and_the_remedy_below(capsys: pytest.CaptureFixture[str]):
    doctor.report([ok("a", "fine"), warning("b", "so so\x1b[2J", "do c"), problem("d", "bad", "e")])
    assert capsys.readouterr().out.splitlines() == [
        "ok       a: fine",
        "warning  b: so so?[2J",
        "           -> do c",
        "problem  d: bad",
        "           -> e",
        "1 problem, 1 warning, 1 ok",
    ]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles that were examined, in place of examining them."""
    roles: list[str] = []

    async def pretend(role: str, settings: object) -> list[Finding]:
        roles.append(role)
        return [problem("x", "y", "z")]

    monkeypatch.setattr(doctor, "examine", pretend)
    return roles


def test_a_problem_is_exit_status_1_and_json_holds_all(
    found: list[str], capsys: pytest.CaptureFixture[str]
):
    assert doctor.main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out) == [
        {"check": "x", "level": "problem", "says": "y", "remedy": "z"}
    ]
    assert doctor.main(["gateway", "--port", "1"]) == 1
    assert found == ["worker", "gateway"]


def test_the_command_s_own_environment_counts(
    found: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("BOOTSTRAP_PORT", "99999")
    with pytest.raises(SystemExit):
        doctor.main(["bootstrap"])
    assert "BOOTSTRAP_PORT" in capsys.readouterr().err
    assert found == []


def test_an_unknown_role_is_refused():
    with pytest.raises(ConfigError, match="no 'nurse' to check; there are worker, gateway"):
        doctor.main(["nurse"])


async def test_a_newcomer_from_elsewhere_hears_whether_gateways_would_take_it(
    settings: Callable[..., WorkerDoctor], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(probes, "LOOK_SECONDS", 0.01)
    member = KademliaDirectory(CYD)
    await member.start()
    gateway = {
        "swarm": "local",
        "model": SPEC.name,
        "revision": SPEC.revision + GATEWAYS,
        "num_blocks": SPEC.num_blocks,
        "span": SPEC.blocks,
    }
    joining = settings(host="0.0.0.0", join=member.multiaddrs)
    alone = await checkup.swarm(joining)
    topic = topic_of("local", SPEC.name, SPEC.revision + GATEWAYS)
    await member.announce(topic, live_record(ANN, **gateway))
    taken = await checkup.swarm(joining)
    here = await checkup.swarm(settings(join=member.multiaddrs))
    await member.stop()
    assert (of(alone, "attach").level, of(taken, "attach").level) == ("warning", "ok")
    assert not any(finding.check == "attach" for finding in here)
