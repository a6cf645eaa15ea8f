"""`brigade status` shows a swarm, or says in one line why it cannot."""

import io
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import pytest
from rich.console import Console, RenderableType

from shared import observer, plan, status
from shared.catalogue import catalogue_topic
from shared.discovery.kademlia import KademliaDirectory
from shared.errors import ConfigError, PeerUnreachable
from shared.identity import Identity
from shared.model_files import BUNDLED, BUNDLED_NAME, read_spec
from shared.overview import Load, Overview, WorkerLine, of_nothing
from shared.plan import PlanSettings
from shared.status import StatusSettings, show
from shared.status_table import coverage_line, printable, table_of, tables_of
from shared.swarm import Span
from tests.shared.announcing import ANN, BOB, CYD, live_record

SPEC = read_spec(BUNDLED, BUNDLED_NAME)
WORKER = WorkerLine(
    peer_id="12D3KooWabcdefgh",
    start=0,
    end=4,
    url="ws://192.0.2.1:7000",
    dtype="float32",
    lease_seconds_left=7.8,
    linked=True,
    status=Load(sessions=2, queued_steps=5, pages_free=10, pages_total=16, decode_seconds=0.05),
)


def overview(*workers: WorkerLine) -> Overview:
    covers = [w for w in workers if not w.leaving]
    counts = tuple(sum(w.start <= block < w.end for w in covers) for block in range(8))
    return Overview(
        model="tiny",
        revision="abc",
        num_blocks=8,
        workers=workers,
        coverage=counts,
        uncovered=() if all(counts) else ("4:8",),
        complete=all(counts),
    )


def text_of(shown: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_one_that_cannot_be_dialled_shows_how_it_is_attached():
    here = msgspec.structs.replace(WORKER, url="", attached=("gate", "other"))
    there = msgspec.structs.replace(WORKER, url="", attached=("gate",), elsewhere=True, status=None)
    shown = text_of(table_of(overview(here, there)))
    assert "attached to 2 gateways" in shown
    assert "attached to 1 gateway " in shown
    assert shown.count("attached to other gateways only") == 1


def test_a_worker_s_row_says_blocks_lease_speed_and_load():
    row = next(line for line in text_of(table_of(overview(WORKER))).splitlines() if "…" in line)
    assert row.split() == [
        *("0:4", "…abcdefgh", "ws://192.0.2.1:7000"),
        *("8", "s", "20.0", "5", "2", "6/16"),
    ]


def test_a_dtype_is_told_once_if_it_is_the_same_of_all():
    other = msgspec.structs.replace(WORKER, dtype="bfloat16")
    alike, mixed = (
        text_of(table_of(overview(WORKER, WORKER))),
        text_of(table_of(overview(WORKER, other))),
    )
    assert "8 blocks, 2 workers in float32  nobody" in alike
    assert "dtype" not in alike
    assert "8 blocks, 2 workers  nobody" in mixed
    assert {"float32", "bfloat16", "dtype"} <= set(mixed.split())


def test_of_several_models_each_has_a_table():
    several = [msgspec.structs.replace(overview(WORKER), model=name) for name in ("one", "two")]
    headlines = [line for line in text_of(tables_of(several)).splitlines() if "8 blocks" in line]
    assert [line.partition("@")[0] for line in headlines] == ["one", "two"]


def test_a_swarm_without_a_model_is_a_sentence_and_no_table():
    shown = text_of(tables_of([of_nothing("nobody announces any model")]))
    assert shown == "nobody announces any model\n"


def test_a_narrow_terminal_costs_the_address_and_nothing_else():
    console = Console(file=io.StringIO(), width=80)
    console.print(table_of(overview(WORKER)))
    assert isinstance(console.file, io.StringIO)
    row = next(line for line in console.file.getvalue().splitlines() if "…" in line)
    assert row.split()[:2] == ["0:4", "…abcdefgh"]
    assert len(row.split()[2]) >= len("ws://192.0.2.1:7000")  # as wide as most are
    assert row.split()[3:] == ["8", "s", "20.0", "5", "2", "6/16"]


def test_what_only_gateways_know_is_a_dash_for_others_and_no_column_if_nobody_knows():
    stranger = msgspec.structs.replace(WORKER, status=None, linked=False)
    row = next(r for r in text_of(table_of(overview(stranger, WORKER))).splitlines() if "…" in r)
    assert row.split()[3:] == ["8", "s", "-", "-", "-", "-"]
    text = text_of(table_of(overview(stranger)))
    assert "lease" in text
    assert "sessions" not in text


def test_leaving_and_broken_links_are_said():
    leaving = msgspec.structs.replace(WORKER, leaving=True)
    unlinked = msgspec.structs.replace(WORKER, linked=False)
    text = text_of(table_of(overview(leaving, unlinked)))
    assert "leaving" in text
    assert "no link" in text


def test_who_loads_and_who_moves_is_not_said_to_leave():
    loading = msgspec.structs.replace(WORKER, leaving=True, next_span="0:4")
    moving = msgspec.structs.replace(WORKER, leaving=True, next_span="4:8")
    text = text_of(table_of(overview(loading, moving)))
    assert "loading" in text
    assert "moving to 4:8" in text
    assert "leaving" not in text


def test_blocks_without_a_worker_are_named():
    text = text_of(table_of(overview(WORKER)))
    assert "nobody hosts 4:8" in text
    assert "0:4 x1  4:8 nobody" in text


def test_of_many_workers_the_rest_is_counted():
    assert "and 7 more" in text_of(table_of(overview(*[WORKER] * 10), max_rows=3))


def test_a_swarm_of_nobody_asks_whether_the_names_are_right():
    assert "compare --swarm, --model and --model-name" in text_of(table_of(overview()))


def test_what_strangers_wrote_commands_no_terminal():
    evil = msgspec.structs.replace(WORKER, url="ws://\x1b[2J[red]x\n\u202e" + "y" * 500)
    text = text_of(table_of(overview(evil)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "ws://?[2J[red]x??yyy" in text
    assert len(printable("z" * 100)) == 64


def test_coverage_is_told_by_stretches():
    assert coverage_line([2, 2, 1, 0]).plain == "coverage  0:2 x2  2:3 x1  3:4 nobody"


async def test_both_ways_of_looking_at_once_are_refused():
    both = StatusSettings(gateway="http://x", join=["/ip4/127.0.0.1/tcp/1/p2p/x"])
    with pytest.raises(ConfigError, match="--gateway or --join, not both"):
        await show(both)
    with pytest.raises(ConfigError, match="give --join ADDRESS"):
        await show(StatusSettings())


Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], StatusSettings]:
    """A gateway that answers as told, in place of the network."""
    real = httpx.AsyncClient

    def answering(answer: Answer) -> StatusSettings:
        transport = httpx.MockTransport(answer)
        monkeypatch.setattr(status.httpx, "AsyncClient", lambda **_: real(transport=transport))
        return StatusSettings(gateway="http://gate/", once=True, as_json=True)

    return answering


async def test_a_swarm_with_a_gap_gives_status_1(
    gateway: Callable[[Answer], StatusSettings], capsys: pytest.CaptureFixture[str]
):
    seen = overview(WORKER)
    settings = gateway(lambda _: httpx.Response(200, content=msgspec.json.encode(seen)))
    assert await show(settings) == 1
    assert msgspec.json.decode(capsys.readouterr().out, type=Overview) == seen


async def test_a_whole_swarm_gives_status_0(gateway: Callable[[Answer], StatusSettings]):
    whole = overview(msgspec.structs.replace(WORKER, end=8))

    def answer(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "http://gate/swarm"
        return httpx.Response(200, content=msgspec.json.encode(whole))

    assert await show(gateway(answer)) == 0


async def test_a_gateway_is_asked_for_all_the_models_it_serves_unless_one_is_named(
    gateway: Callable[[Answer], StatusSettings], capsys: pytest.CaptureFixture[str]
):
    def answer(request: httpx.Request) -> httpx.Response:
        name = request.url.params.get("model", "one")
        told = msgspec.structs.replace(overview(WORKER), model=name, models=("one", "two"))
        return httpx.Response(200, content=msgspec.json.encode(told))

    settings = gateway(answer)
    for named, expected in (("", ["one", "two"]), ("two", ["two"])):
        assert await show(settings.model_copy(update={"model_name": named})) == 1
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["model"] for line in lines] == expected


async def test_a_gateway_with_keys_is_shown_one(gateway: Callable[[Answer], StatusSettings]):
    def answer(request: httpx.Request) -> httpx.Response:
        is_known = request.headers.get("authorization") == "Bearer sesame"
        return httpx.Response(200 if is_known else 401, content=msgspec.json.encode(overview()))

    settings = gateway(answer)
    assert await show(settings.model_copy(update={"api_key": "sesame"})) == 1
    with pytest.raises(ConfigError, match="http://gate/ asks for a key: set STATUS_API_KEY"):
        await show(settings)


async def test_a_model_the_gateway_does_not_serve_is_named(
    gateway: Callable[[Answer], StatusSettings],
):
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.params["model"] == "other"
        return httpx.Response(404)

    settings = gateway(answer).model_copy(update={"model_name": "other"})
    with pytest.raises(ConfigError, match="serves no model named other"):
        await show(settings)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda _: httpx.Response(502), "answers with status 502"),
        (lambda _: httpx.Response(200, text="hello"), "is no gateway of ours"),
        (lambda _: httpx.Response(200, content=b" " * (17 << 20)), "answers with over"),
    ],
)
async def test_what_is_no_gateway_is_said_in_one_sentence(
    answer: Answer, sentence: str, gateway: Callable[[Answer], StatusSettings]
):
    with pytest.raises(PeerUnreachable, match=sentence):
        await show(gateway(answer))


async def test_what_is_wrong_is_said_once_and_not_at_each_look(
    gateway: Callable[[Answer], StatusSettings], capsys: pytest.CaptureFixture[str]
):
    codes = iter([502, 502, 502, 503, 503])

    def answer(_: httpx.Request) -> httpx.Response:
        code = next(codes, None)
        if code is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return httpx.Response(code or 503)

    changes = {"once": False, "every_seconds": 0.001}
    assert await show(gateway(answer).model_copy(update=changes)) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert ("status 502" in first, "status 503" in second) == (True, True)


async def test_a_gateway_that_does_not_answer_is_named():
    with pytest.raises(PeerUnreachable, match=r"no gateway answers at http://127\.0\.0\.1:1/swarm"):
        await show(StatusSettings(gateway="http://127.0.0.1:1", once=True))


def record(identity: Identity, model: str, span: Span, **changes: object) -> bytes:
    """The announcement of a worker that hosts so much of a model of 8 blocks."""
    said: dict[str, object] = {"model": model, "revision": "abc", "num_blocks": 8, "span": span}
    return live_record(identity, **{"swarm": "local"} | said | changes)


@pytest.fixture
async def member() -> AsyncIterator[KademliaDirectory]:
    """A node of a swarm in which one model is hosted in whole, and the half of another."""
    member = KademliaDirectory(CYD)
    await member.start()
    for identity, name, span in ((ANN, "one", Span(0, 8)), (BOB, "two", Span(0, 4))):
        await member.announce(f"local/{name}@abc", record(identity, name, span))
        listed = record(identity, "", span, revision="", entry_of=f"{name}@abc")
        await member.announce(catalogue_topic("local"), listed)
    bundled = {"revision": SPEC.revision, "num_blocks": SPEC.num_blocks}
    whole = record(ANN, SPEC.name, SPEC.blocks, **bundled)
    await member.announce(f"local/{SPEC.name}@{SPEC.revision}", whole)
    yield member
    await member.stop()


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The JSON that was printed; logs are among it, as nobody set those up."""
    lines = capsys.readouterr().out.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


async def test_an_observer_finds_the_workers_of_a_model_through_any_node(
    member: KademliaDirectory, capsys: pytest.CaptureFixture[str]
):
    settings = StatusSettings(join=member.multiaddrs, once=True, as_json=True, model=str(BUNDLED))
    assert await show(settings.model_copy(update={"model_name": SPEC.name})) == 0
    (seen,) = told(capsys)
    assert [worker["peer_id"] for worker in seen["workers"]] == [ANN.peer]
    assert seen["complete"]


async def test_an_observer_who_names_no_model_sees_all_there_are(
    member: KademliaDirectory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(observer, "CALM_SECONDS", 1.0)
    settings = StatusSettings(join=member.multiaddrs, once=True, as_json=True)
    assert await show(settings) == 1
    seen = [(one["model"], one["complete"], len(one["workers"])) for one in told(capsys)]
    assert seen == [("one", True, 1), ("two", False, 1)]


async def test_an_observer_of_a_swarm_of_another_name_says_what_to_compare(
    member: KademliaDirectory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(observer, "LOOK_SECONDS", 0.01)
    settings = StatusSettings(join=member.multiaddrs, once=True, as_json=True, swarm="other")
    assert await show(settings) == 1
    (seen,) = told(capsys)
    assert "nobody announces any model in swarm 'other'" in seen["hint"]


async def test_a_newcomer_who_is_told_no_model_is_told_of_the_one_that_needs_it_most(
    member: KademliaDirectory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(observer, "CALM_SECONDS", 1.0)
    monkeypatch.setattr(observer, "LOOK_SECONDS", 0.01)
    settings = PlanSettings(join=member.multiaddrs, fits=4, explain=True)
    text = await plan.look(settings)
    assert text.startswith("two@abc: nobody hosts 4 of its blocks; it needs help more than one@abc")
    assert "takes 4:8" in text
    assert await plan.look(settings.model_copy(update={"explain": False})) == "4:8"
    with pytest.raises(ConfigError, match="nobody announces any model in swarm 'other'"):
        await plan.look(settings.model_copy(update={"swarm": "other"}))


async def test_an_observer_whom_nobody_answers_says_so():
    nowhere = f"/ip4/127.0.0.1/tcp/1/p2p/{ANN.peer}"
    with pytest.raises(PeerUnreachable, match="no node of the swarm answers at /ip4/"):
        await show(StatusSettings(join=[nowhere], once=True))
