"""API keys: found by their digests alone, read anew when their file changes, made once."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.key_ring import KeyRing
from gateway.keys import (
    Caller,
    Key,
    Keys,
    caller_by,
    digest_of,
    make_secret,
    masked,
    parse_file,
    parse_variable,
    presented,
    write_file,
)
from gateway.keys_command import main
from shared.errors import ConfigError, RequestError
from tests.shared.announcing import Clock

ALICE, BOB = make_secret(), make_secret()


def key(name: str = "alice", secret: str = ALICE, **limits: Any) -> Key:
    return Key(name=name, digest=digest_of(secret), **limits)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


# --- what a key is ---


def test_a_key_is_found_by_all_of_it_and_nothing_less():
    keys = Keys([key(), key("bob", BOB)])
    assert keys.find(ALICE) == key()
    for other in ("", ALICE[:-1], ALICE + "x", digest_of(ALICE), "\ud800".encode(errors="replace")):
        assert keys.find(str(other)) is None


def test_two_keys_need_two_names_and_two_digests():
    with pytest.raises(ConfigError, match="name"):
        Keys([key(), key(secret=BOB)])
    with pytest.raises(ConfigError, match="digest"):
        Keys([key(), key("bob")])


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        (bearer("k"), "k"),
        ({"authorization": "bearer  k "}, "k"),
        ({"api-key": "k"}, "k"),
        ({"x-api-key": "k"}, "k"),
        ({"authorization": "Basic dTpw", "x-api-key": "k"}, "k"),
        ({"authorization": "Basic dTpw"}, ""),
        ({"authorization": "Bearer "}, ""),
        ({}, ""),
    ],
)
def test_a_key_may_come_in_any_of_three_headers(headers: dict[str, str], secret: str):
    assert presented(headers) == secret


def test_a_key_for_some_models_opens_those_by_any_of_their_names():
    caller = caller_by(key(models=["acme/tiny"]))
    assert caller.may_use("gpt-4o", "acme/tiny")
    assert not caller.may_use("acme/huge", "acme/huge")
    assert caller_by(key()).may_use("acme/huge")


@pytest.mark.parametrize("secret", [ALICE, "short", "x" * 15], ids=["whole", "short", "half"])
def test_a_wrong_key_is_never_shown_whole(secret: str):
    assert len(masked(secret)) <= 10
    assert secret not in masked(secret)


def test_a_file_says_what_was_put_into_it():
    keys = [key(tokens_per_minute=9, models=["a"]), key("bob", BOB)]
    assert parse_file(write_file(keys).encode()) == keys
    assert ALICE not in write_file(keys)


def test_a_variable_takes_names_with_digests_or_the_json_of_a_file():
    text = f"alice={digest_of(ALICE)}, bob={digest_of(BOB)}"
    assert parse_variable(text) == [key(), key("bob", BOB)]
    as_json = json.dumps([{"name": "alice", "digest": digest_of(ALICE), "max_streams": 2}])
    assert parse_variable(as_json) == [key(max_streams=2)]


@pytest.mark.parametrize(
    "text",
    [f"alice={ALICE}", ALICE, f"={digest_of(ALICE)}", "[{]", "[1]"],
    ids=["not a digest", "no name", "an empty name", "no JSON", "no object"],
)
def test_a_bad_variable_is_refused_without_being_repeated(text: str):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_variable(text)
    assert ALICE not in str(caught.value)


# --- the ring of a running gateway ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(write_file([key()]))
    return path


def test_without_any_keys_everybody_may_come_in_and_is_told_apart_by_what_they_show():
    ring = KeyRing()
    one, other, none = ring.caller(bearer("a")), ring.caller(bearer("b")), ring.caller({})
    assert len({one.tenant, other.tenant, none.tenant}) == 3
    assert ring.caller(bearer("a")) == one
    assert one.name == ""


def test_a_file_without_keys_lets_nobody_in(path: Path):
    path.write_text(write_file([]))
    with pytest.raises(RequestError) as caught:
        KeyRing(path).caller(bearer(ALICE))
    assert (caught.value.status, caught.value.reason) == (401, "invalid_api_key")


def test_keys_come_from_the_file_and_from_beside_it(path: Path):
    ring = KeyRing(path, [key("bob", BOB)])
    assert ring.caller(bearer(ALICE)) == Caller("key:alice", key())
    assert ring.caller(bearer(BOB)).name == "bob"


def test_a_change_of_the_file_counts_after_a_second_and_costs_no_look_before(path: Path):
    clock = Clock()
    ring = KeyRing(path, clock=clock)
    path.write_text(write_file([key("bob", BOB)]))
    assert ring.keys.find(ALICE) is not None
    clock.now += 1
    assert ring.keys.find(ALICE) is None
    assert ring.keys.find(BOB) is not None


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("{")])
def test_a_spoiled_file_changes_nothing_but_the_log(path: Path, spoil: Any):
    clock = Clock()
    ring = KeyRing(path, clock=clock)
    spoil(path)
    clock.now += 1
    with capture_logs() as logs:
        assert ring.keys.find(ALICE) is not None
        clock.now += 1
        assert ring.keys.find(ALICE) is not None
    assert [entry["event"] for entry in logs] == ["keys_not_read"]
    path.write_text(write_file([key("bob", BOB)]))
    clock.now += 1
    assert ring.keys.find(ALICE) is None


@pytest.mark.parametrize(
    "text", ["", "[]", '{"keys": [{"name": "a"}]}', '{"keys": [], "kyes": []}', "\0"]
)
def test_a_gateway_does_not_start_with_a_bad_file(path: Path, text: str):
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        KeyRing(path)


def test_a_missing_file_is_told_with_its_remedy(tmp_path: Path):
    with pytest.raises(ConfigError, match="brigade keys make"):
        KeyRing(tmp_path / "none.json")


# --- the command ---


def test_a_key_is_shown_once_and_opens_until_it_is_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "new" / "keys.json"
    file = f"--file={path}"
    assert main(["make", "alice", file, "--tokens-per-minute=900", "--models=a,b"]) == 0
    secret = capsys.readouterr().out.strip()
    made = KeyRing(path).caller(bearer(secret)).key
    assert made is not None
    assert (made.tokens_per_minute, made.requests_per_minute, made.models) == (
        900,
        None,
        ["a", "b"],
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["list", file]) == 0
    listed = capsys.readouterr().out
    assert "alice" in listed
    assert "900" in listed
    assert secret not in listed + path.read_text()
    assert main(["revoke", "alice", file]) == 0
    with pytest.raises(RequestError):
        KeyRing(path).caller(bearer(secret))


def test_a_file_that_is_a_link_stays_one(tmp_path: Path):
    real = tmp_path / "real.json"
    link = tmp_path / "link.json"
    link.symlink_to(real)
    main(["make", "alice", f"--file={link}"])
    assert link.is_symlink()
    assert [key.name for key in parse_file(real.read_bytes())] == ["alice"]


def test_nothing_is_left_behind_and_nothing_changed_by_a_mistake(path: Path):
    before = path.read_bytes()
    file = f"--file={path}"
    for mistake in (
        ["make", "alice"],
        ["revoke", "bob"],
        ["make"],
        ["make", "../x"],
        ["lend", "x"],
    ):
        with pytest.raises(ConfigError):
            main([*mistake, file])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["keys.json"]


def test_limits_that_make_no_sense_are_named(path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["make", "bob", f"--file={path}", "--max-streams=0"])
    assert "--max-streams" in capsys.readouterr().err


def test_alone_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 0
    assert "revoke NAME" in capsys.readouterr().out
