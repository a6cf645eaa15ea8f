"""Reads a command's options: the command line over the environment over `.env` over defaults."""

import argparse
import difflib
import inspect
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar, cast

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    SettingsConfigDict,
    SettingsError,
)

from shared.errors import ProtocolError
from shared.identity import public_key_of
from shared.swarm import PeerId

T = TypeVar("T", bound=BaseSettings)
ENV_FILE = ".env"
COMMON_JOIN = "BRIGADE_JOIN"
"""Serves as JOIN for every command that has one and is not told any other."""


class Setting(NamedTuple):
    """One option as people meet it: in `--help`, in README and in `.env.example`."""

    name: str
    option: str
    variable: str
    default: str
    description: str


def settings_config(prefix: str) -> SettingsConfigDict:
    """What every settings class shares: its variables' prefix, and that it never changes."""
    return SettingsConfigDict(
        env_prefix=prefix,
        extra="ignore",  # one .env file serves all four commands
        frozen=True,
    )


def settings_of(settings_class: type[BaseSettings]) -> list[Setting]:
    """Every setting of a class, in order."""
    prefix = settings_class.model_config.get("env_prefix", "")
    return [
        Setting(
            name=name,
            option=f"--{name.replace('_', '-')}",
            variable=f"{prefix}{name}".upper(),
            default=default_text(field.get_default(call_default_factory=True)),
            description=field.description or "",
        )
        for name, field in settings_class.model_fields.items()
    ]


def default_text(default: object) -> str:
    """A default as it would be written in the environment."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list | tuple):
        return ",".join(str(item) for item in cast("Sequence[object]", default))
    return str(default)


def parse(settings_class: type[T], argv: list[str], *, prog: str, epilog: str = "") -> T:
    """The settings of one process.

    Bad input ends the process with status 2 and one line that names the option and what it takes;
    `--help` ends it with status 0.
    """
    settings = {setting.name: setting for setting in settings_of(settings_class)}
    parser = _Parser(settings, prog=prog, description=settings_class.__doc__, epilog=epilog)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            settings_class,
            root_parser=parser,
            add_argument_method=_Parser.add_setting,
            cli_hide_none_type=True,
            cli_implicit_flags=True,
            cli_kebab_case=True,
        )
        given = settings_class(_cli_settings_source=source(args=argv), _env_file=ENV_FILE)
        common = _common_join() if "join" in settings else ""
        if common and "join" not in given.model_fields_set:
            return settings_class(
                join=common, _cli_settings_source=source(args=argv), _env_file=ENV_FILE
            )
        return given
    except ValidationError as error:
        parser.error("; ".join(_complaint(one, settings) for one in error.errors()))
    except SettingsError as error:
        parser.error(" ".join(str(error).split()))
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"the file {ENV_FILE} in the working directory cannot be read: {error}")


def _common_join() -> str:
    """The nodes that all commands join through unless told otherwise."""
    return os.environ.get(COMMON_JOIN) or dotenv_values(ENV_FILE).get(COMMON_JOIN) or ""


def _complaint(error: ErrorDetails, settings: Mapping[str, Setting]) -> str:
    """One line saying which setting is wrong, what it takes and what it got."""
    rule = error["msg"].removeprefix("Value error, ").split(", unable to")[0]
    rule = rule.replace("Input should be", "must be")
    setting = settings.get(str(error["loc"][0])) if error["loc"] else None
    if setting is None:
        return rule
    if error["type"] == "string_pattern_mismatch":  # patterns are not for people to read
        rule = f"takes the {setting.description.partition(';')[0]}"
    if error["type"] != "value_error":
        rule += f", not {error['input']!r}"
    return f"{setting.option} (or {setting.variable}) {rule}"


class _Parser(argparse.ArgumentParser):
    """argparse with our help, and with errors that fit on one line."""

    def __init__(
        self, settings: Mapping[str, Setting], *, prog: str, description: str | None, epilog: str
    ) -> None:
        self._settings = settings
        super().__init__(
            prog=prog,
            usage=f"{prog} [options]",
            description=inspect.cleandoc(description or ""),
            epilog=epilog.strip("\n") + "\n\n" * bool(epilog) + PRECEDENCE,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    def add_setting(self, *flags: str, **options: Any) -> argparse.Action:
        """Adds one option; called by pydantic-settings for every field of the class."""
        setting = self._settings[options["dest"]]
        default = f"default: {setting.default}" if setting.default else "default: none"
        options["help"] = f"{setting.description} ({default}) [{setting.variable}]".replace(
            "%", "%%"
        )
        if "metavar" in options:
            options["metavar"] = _metavar(options["metavar"])
        return self.add_argument(*flags, **options)

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            options = [setting.option for setting in self._settings.values()]
            near = difflib.get_close_matches(unknown[1], options, n=1)
            message = f"there is no option {unknown[1]}"
            message += f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


PRECEDENCE = (
    "An option given here wins over its [VARIABLE] in the environment, which wins over the same\n"
    "line in a .env file in the working directory, which wins over the default.\n"
    "BRIGADE_JOIN stands in for the --join of every command that is given none."
)


def _metavar(type_name: str) -> str:
    """`list[str]` -> TEXT, `int` -> INT; choices stay as they are."""
    if type_name.startswith("{"):
        return type_name
    item = type_name.removeprefix("list[").removesuffix("]")
    return "TEXT" if item == "str" else item.upper()


def _split(value: object) -> object:
    """A list from one environment variable: JSON, or items separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is not a JSON list: {error}") from error
    return [item.strip() for item in value.split(",") if item.strip()]


def _is_multiaddr(address: str) -> str:
    if not address.startswith("/") or "/p2p/" not in address:
        raise ValueError(
            f"takes addresses such as /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW..., not {address!r}"
        )
    return address


def _is_peer(text: str) -> str:
    try:
        public_key_of(PeerId(text))
    except ProtocolError as error:
        raise ValueError(
            f"takes peer ids such as 12D3KooW..., which /swarm shows, not {text!r}: {error}"
        ) from error
    return text


def _path_or_none(value: object) -> object:
    return None if value == "" else value


Addresses = Annotated[
    list[Annotated[str, AfterValidator(_is_multiaddr)]], NoDecode, BeforeValidator(_split)
]
"""Multiaddrs: `--join A --join B`, `X_JOIN=A,B` or `X_JOIN=["A","B"]`."""

Peers = Annotated[
    list[Annotated[PeerId, AfterValidator(_is_peer)]], NoDecode, BeforeValidator(_split)
]
"""Peer ids: `--trusted-peers A --trusted-peers B`, `X_TRUSTED_PEERS=A,B`."""

Names = Annotated[list[str], NoDecode, BeforeValidator(_split)]
"""Texts: `--model A --model B`, `X_MODEL=A,B` or `X_MODEL=["A","B"]`."""

FilePath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path in which `~` is the home directory."""

OptionalPath = Annotated[FilePath | None, BeforeValidator(_path_or_none)]
"""A path, or nothing at all when empty."""
