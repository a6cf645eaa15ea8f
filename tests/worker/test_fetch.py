"""A volunteer fetches its span's bytes from the hub, once, whatever happens on the way."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shared.errors import ModelError
from shared.hub import HubModel, fetch_text
from shared.model_files import locate, read_spec
from shared.swarm import Span
from tests.hub import COMMIT, FOREVER, MODEL, Hub, files_of
from tests.models import build, save
from worker import fetch
from worker.fetch import fetch_span
from worker.weights import INDEX, SINGLE, load_span, needed_tensors, tensor_bytes

SPAN = Span(2, 4)
ACME = HubModel(MODEL)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama"), tmp_path_factory.mktemp("sharded"), shard="300KB")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama"), tmp_path_factory.mktemp("single"), shard="1GB")


@pytest.fixture(params=["sharded", "single"])
def model(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(fetch, "PIECE_BYTES", 16 << 10)
    monkeypatch.setattr(fetch, "BLOCK_BYTES", 4 << 10)
    monkeypatch.setattr(fetch, "HEADER_GUESS_BYTES", 1 << 10)
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.001)
    with Hub(files_of(model)).serving() as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        yield hub


def fetched(span: Span = SPAN) -> Path:
    return fetch_span(ACME, fetch_text(ACME), span, lambda done, total: None)


def weights_sent(hub: Hub) -> int:
    return sum(count for name, count in hub.sent.items() if name.endswith(".safetensors"))


def bytes_of(model: Path, span: Span) -> int:
    return tensor_bytes(model, needed_tensors(model, span))


def headers_of(model: Path) -> int:
    return sum(8 + int.from_bytes(p.read_bytes()[:8], "little") for p in model.glob("*.saf*"))


def complaint() -> str:
    with pytest.raises(ModelError) as refused:
        fetched()
    return str(refused.value)


def test_a_span_asks_for_its_own_bytes_and_some_headers(hub: Hub, model: Path):
    needed = bytes_of(model, SPAN)
    fetched()
    assert needed <= weights_sent(hub) <= needed + headers_of(model) + 10 * 1024
    assert weights_sent(hub) < sum(p.stat().st_size for p in model.glob("*.saf*")) / 2


def test_what_was_fetched_loads_and_equals_the_whole_checkpoint_s(hub: Hub, model: Path):
    found = load_span(fetched(), SPAN)._model.state_dict()
    expected = load_span(model, SPAN)._model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_gateway_and_worker_agree_on_the_commit(hub: Hub):
    for name in (MODEL, f"{MODEL}@v1", f"{MODEL}@{COMMIT}"):
        assert read_spec(locate(name), MODEL).revision == COMMIT
    assert not weights_sent(hub)  # nothing a gateway does fetches weights


def test_with_all_of_it_here_no_network_is_needed(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    fetched()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    load_span(fetched(), SPAN)


def test_another_span_fetches_the_difference(hub: Hub, model: Path):
    fetched()
    hub.sent.clear()
    fetched(Span(3, 5))
    assert weights_sent(hub) <= bytes_of(model, Span(4, 5)) + headers_of(model) + 10 * 1024


def test_a_file_that_the_cache_holds_whole_is_not_asked_for(hub: Hub, model: Path):
    snapshot = fetch_text(ACME)
    for path in model.glob("*.safetensors"):
        (snapshot / path.name).symlink_to(path)
    load_span(fetched(), SPAN)
    assert not weights_sent(hub)


def test_a_broken_connection_is_taken_up_where_it_broke(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
):
    snapshot = fetch_text(ACME)
    needed = bytes_of(model, SPAN)
    breaks: list[float] = []

    def carry_on(seconds: float) -> None:
        breaks.append(seconds)
        hub.stop_after(needed // 3)

    monkeypatch.setattr(fetch.time, "sleep", carry_on)
    hub.stop_after(needed // 3)
    load_span(fetch_span(ACME, snapshot, SPAN, lambda done, total: None), SPAN)
    assert len(breaks) >= 2
    lost = len(breaks) * fetch.CONNECTIONS * fetch.BLOCK_BYTES
    assert weights_sent(hub) <= needed + headers_of(model) + lost + 10 * 1024


def test_a_killed_worker_resumes(hub: Hub, model: Path, tmp_path: Path):
    code = f"""if True:
        from worker import fetch
        from worker.fetch import *
        from shared.hub import fetch_text
        fetch.PIECE_BYTES, fetch.BLOCK_BYTES, fetch.HEADER_GUESS_BYTES = 16 << 10, 4 << 10, 1 << 10
        model = HubModel({MODEL!r})
        fetch_span(model, fetch_text(model), Span(2, 4), print)
    """
    snapshot = fetch_text(ACME)
    needed = bytes_of(model, SPAN)
    hub.hold_after(needed // 2)
    environment = os.environ | hub.environment(tmp_path / "cache")
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        assert hub.spent.wait(60)
        process.kill()
    hub.hold_after(FOREVER)
    load_span(fetch_span(ACME, snapshot, SPAN, lambda done, total: None), SPAN)
    in_flight = fetch.CONNECTIONS * fetch.PIECE_BYTES
    assert weights_sent(hub) <= needed + headers_of(model) + in_flight + 10 * 1024


def test_progress_is_told_in_bytes_of_the_span(hub: Hub, model: Path):
    told: list[tuple[int, int]] = []
    fetch_span(ACME, fetch_text(ACME), SPAN, lambda *numbers: told.append(numbers))
    needed = bytes_of(model, SPAN)
    assert told[0][0] < needed
    assert told[-1] == (needed, needed)
    told.clear()
    fetch_span(ACME, fetch_text(ACME), SPAN, lambda *numbers: told.append(numbers))
    assert told == [(needed, needed)]


@pytest.mark.parametrize("model", ["single"], indirect=True)
@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((403, "GatedRepo"), "model acme/tiny is gated: accept its terms"),
        ((401, "GatedRepo"), "model acme/tiny is gated: accept its terms"),
        ((401, ""), "model acme/tiny may not be read (HTTP 401): check the name, or log in"),
        ((404, "RepoNotFound"), "model acme/tiny is not on the hub, or is private"),
        ((403, ""), "model acme/tiny may not be read (HTTP 403): check the name, or"),
        ((503, ""), "model acme/tiny cannot be had now: the hub answered 503"),
    ],
    ids=str,
)
@pytest.mark.parametrize("at", ["config", "weights"])
def test_a_refusal_is_one_sentence(hub: Hub, refusal: tuple[int, str], words: str, at: str):
    snapshot = fetch_text(ACME) if at == "weights" else None
    hub.refusal = refusal
    with pytest.raises(ModelError) as refused:
        fetch_span(ACME, snapshot or fetch_text(ACME), SPAN, lambda done, total: None)
    assert str(refused.value).startswith(words)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("model", ["single"], indirect=True)
def test_an_unknown_revision_is_named(hub: Hub):
    with pytest.raises(ModelError, match="model acme/tiny@v9 has no revision v9"):
        locate(f"{MODEL}@v9")


@pytest.mark.parametrize("model", ["single"], indirect=True)
def test_without_a_network_the_hub_is_said_to_be_out_of_reach(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
):
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    snapshot = fetch_text(ACME)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(ModelError, match=r"not all in the cache, and the hub cannot be reached"):
        fetch_span(ACME, snapshot, SPAN, lambda done, total: None)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"not all in the cache, and the hub cannot be reached"):
        fetch_text(HubModel("acme/other"))


@pytest.mark.parametrize("model", ["single"], indirect=True)
def test_a_full_disk_is_named_before_and_while_it_fills(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    usage = fetch.shutil.disk_usage("/")
    fetch_text(ACME)
    with monkeypatch.context() as patch:
        patch.setattr(fetch.shutil, "disk_usage", lambda path: usage._replace(free=10))
        assert "blocks 2:4 need" in complaint()
    monkeypatch.setattr("worker.partial.os.fdatasync", full)
    assert "does not fit on the disk" in complaint()


@pytest.mark.parametrize("model", ["single"], indirect=True)
def test_a_model_of_pickles_is_refused(hub: Hub):
    del hub.files[SINGLE]
    hub.files["pytorch_model.bin"] = b"\x80\x04."
    assert complaint() == (
        f"model acme/tiny has no {SINGLE} nor {INDEX}; pytorch_model.bin is a pickle, which is "
        "never loaded: choose one in safetensors"
    )
    assert not hub.sent["pytorch_model.bin"]


@pytest.mark.parametrize("model", ["sharded"], indirect=True)
def test_a_shard_that_the_hub_lacks_is_named(hub: Hub, model: Path):
    index = json.loads((model / INDEX).read_text())["weight_map"]
    shard = index["model.layers.2.mlp.up_proj.weight"]
    del hub.files[shard]
    assert complaint() == f"model acme/tiny lacks {shard}, which its {INDEX} names"


@pytest.mark.parametrize("model", ["single"], indirect=True)
@pytest.mark.parametrize("data", [b"\xff" * 5000, b"\x10" + b"\0" * 100, b""], ids=len)
def test_a_file_that_is_no_safetensors_is_refused(hub: Hub, data: bytes):
    hub.files[SINGLE] = data
    assert "model" in complaint()


@pytest.mark.parametrize("model", ["single"], indirect=True)
def test_a_hub_without_byte_ranges_is_refused_rather_than_read_whole(hub: Hub):
    hub.ignores_ranges = True
    assert "does not serve parts of files" in complaint()


@pytest.mark.parametrize("model", ["single"], indirect=True)
def test_a_family_that_is_not_served_costs_no_weights(hub: Hub):
    hub.files["config.json"] = hub.files["config.json"].replace(b'"llama"', b'"vit"')
    assert "vit" in complaint()
    assert not weights_sent(hub)
