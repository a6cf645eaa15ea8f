"""Options come from the command line, the environment, `.env` and defaults, in that order."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings

from shared.commands import (
    Addresses,
    FilePath,
    OptionalPath,
    Peers,
    parse,
    settings_config,
    settings_of,
)
from tests.shared.announcing import ANN, BOB

A = "/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWA"
B = "/ip4/203.0.113.8/tcp/4001/p2p/12D3KooWB"


class BakerSettings(BaseSettings):
    """Bake bread."""

    model_config = settings_config("BAKER_")

    oven: str = Field("", description="which oven; 100% wood is best")
    port: int = Field(8000, ge=0, le=65535, description="port of the shop")
    shop: str = Field("", pattern=r"^(https?://.+)?$", description="http:// URL; empty = none")
    heat: Literal["auto", "low", "high"] = Field("auto", description="how hot")
    join: Addresses = Field([], description="other bakers")
    key_file: FilePath = Field(Path("~/bread.key"), validate_default=True, description="key")
    cache: OptionalPath = Field(None, description="where leftovers go")
    open_all_night: bool = Field(False, description="never close")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/baker")
    return tmp_path


def bake(*argv: str) -> BakerSettings:
    return parse(BakerSettings, list(argv), prog="bake", epilog="examples:\n  bake --oven big")


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that bad input gets."""
    with pytest.raises(SystemExit) as exit_info:
        bake(*argv)
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("bake: ").removesuffix(" (see bake --help)\n")


def test_nothing_said_gives_the_defaults():
    settings = bake()
    assert (settings.oven, settings.port, settings.heat, settings.join) == ("", 8000, "auto", [])
    assert settings.cache is None
    assert not settings.open_all_night


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
):
    (nowhere / ".env").write_text("BAKER_OVEN=file\nBAKER_PORT=1\nBAKER_HEAT=low\nGATEWAY_X=1\n")
    monkeypatch.setenv("BAKER_OVEN", "environment")
    monkeypatch.setenv("BAKER_PORT", "2")
    settings = bake("--oven", "line")
    assert (settings.oven, settings.port, settings.heat) == ("line", 2, "low")


def test_flags_are_kebab_case_and_need_no_value():
    assert bake("--open-all-night").open_all_night
    assert not bake("--no-open-all-night").open_all_night


@pytest.mark.parametrize("text", [f"{A},{B}", f" {A} , {B},", f'["{A}", "{B}"]'])
def test_a_list_in_the_environment_is_json_or_separated_by_commas(
    text: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BAKER_JOIN", text)
    assert bake().join == [A, B]


def test_a_list_on_the_command_line_repeats_its_flag_and_replaces_the_environments(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("BAKER_JOIN", A)
    assert bake("--join", B, "--join", A).join == [B, A]


def test_empty_in_the_environment_is_an_empty_list_or_no_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BAKER_JOIN", "")
    monkeypatch.setenv("BAKER_CACHE", "")
    assert bake().join == []
    assert bake().cache is None


def test_a_peer_id_is_checked_where_it_is_written():
    peers = TypeAdapter(Peers)
    assert peers.validate_python(f"{ANN.peer}, {BOB.peer}") == [ANN.peer, BOB.peer]
    with pytest.raises(ValidationError, match="takes peer ids such as 12D3KooW"):
        peers.validate_python("ann")


def test_a_tilde_is_the_home_directory():
    assert bake().key_file == Path("/home/baker/bread.key")
    assert bake("--cache", "~/c").cache == Path("/home/baker/c")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--port", "70000"], "--port (or BAKER_PORT) must be less than or equal to 65535, not"),
        (["--port", "x"], "--port (or BAKER_PORT) must be a valid integer, not 'x'"),
        (["--heat", "mild"], "--heat (or BAKER_HEAT) must be 'auto', 'low' or 'high', not 'mild'"),
        (["--shop", "x"], "--shop (or BAKER_SHOP) takes the http:// URL, not 'x'"),
        (["--join", "localhost"], "--join (or BAKER_JOIN) takes addresses such as /ip4/"),
        (["--prot", "1"], "there is no option --prot; did you mean --port?"),
        (["--port"], "argument --port: expected one argument"),
        (["bread"], "unrecognized arguments: bread"),
    ],
)
def test_bad_input_is_one_line_naming_the_option_and_what_it_takes(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
):
    assert complaint(capsys, *argv).startswith(line)


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("BAKER_PORT", "", "--port (or BAKER_PORT) must be a valid integer, not ''"),
        ("BAKER_JOIN", '["/a', "--join (or BAKER_JOIN) is not a JSON list:"),
        ("BAKER_OPEN_ALL_NIGHT", "so", "--open-all-night (or BAKER_OPEN_ALL_NIGHT) must be a"),
    ],
)
def test_a_bad_variable_gets_the_same_line(
    variable: str,
    value: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv(variable, value)
    assert complaint(capsys).startswith(line)


def test_two_mistakes_are_told_at_once(capsys: pytest.CaptureFixture[str]):
    line = complaint(capsys, "--port", "x", "--heat", "y")
    assert "--port" in line
    assert "--heat" in line


def test_an_unreadable_env_file_is_named(nowhere: Path, capsys: pytest.CaptureFixture[str]):
    (nowhere / ".env").write_bytes(b"BAKER_OVEN=\xff\xfe\n")
    assert ".env" in complaint(capsys)


def test_help_tells_every_option_with_its_default_and_its_variable(
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(SystemExit) as exit_info:
        bake("--help")
    assert exit_info.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Bake bread." in text
    assert "examples: bake --oven big" in text
    for option, variable, default in [
        ("--port INT", "BAKER_PORT", "8000"),
        ("--oven TEXT", "BAKER_OVEN", "none"),
        ("--key-file PATH", "BAKER_KEY_FILE", "~/bread.key"),
        ("--heat {auto,low,high}", "BAKER_HEAT", "auto"),
        ("--open-all-night, --no-open-all-night", "BAKER_OPEN_ALL_NIGHT", "false"),
    ]:
        assert f"{option} " in text
        assert f"(default: {default}) [{variable}]" in text


def test_settings_describe_themselves():
    settings = {setting.variable: setting for setting in settings_of(BakerSettings)}
    assert settings["BAKER_KEY_FILE"].option == "--key-file"
    assert settings["BAKER_KEY_FILE"].default == "~/bread.key"
    assert settings["BAKER_JOIN"].default == ""
    assert settings["BAKER_OPEN_ALL_NIGHT"].default == "false"


@pytest.mark.parametrize(
    ("argv", "environment", "expected"),
    [
        ([], {}, [A]),
        ([f"--join={B}"], {}, [B]),
        (["--join", ""], {}, []),
        ([], {"BAKER_JOIN": B}, [B]),
    ],
    ids=["alone", "option", "emptied", "variable"],
)
def test_brigade_join_serves_every_command_that_is_told_no_other(
    argv: list[str],
    environment: dict[str, str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"BRIGADE_JOIN={A}\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse(BakerSettings, argv, prog="brigade baker").join == expected
