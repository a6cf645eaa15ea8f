"""The `brigade` command: finds its subcommands among installed entry points and runs one."""

import difflib
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from typing import NamedTuple, cast

from shared.errors import BrigadeError, ConfigError

DISTRIBUTION = "bucket-brigade"
GROUP = "brigade.commands"
STOP_GRACE_SECONDS = 10.0
OURS = frozenset({"shared", "gateway", "worker"})


class Command(NamedTuple):
    """What `brigade --help` says of a command, and the extras that bring what it needs."""

    summary: str
    extras: str = ""


COMMANDS: Mapping[str, Command] = {
    "up": Command("a whole swarm on this machine, to try it out", "worker"),
    "worker": Command("host a span of a model's blocks: lend a machine", "worker"),
    "gateway": Command("serve the OpenAI API in front of a swarm"),
    "keys": Command("make, list and revoke the API keys of a gateway", "gateway"),
    "bootstrap": Command("a node that newcomers find the others through"),
    "status": Command("a live table of a swarm: who hosts what, how busy, until when"),
    "plan": Command("which blocks a newcomer would host in a swarm, and why"),
    "doctor": Command("what is wrong with this machine's set-up, and the remedy"),
    "identity": Command("make a private key ahead of its process, and print its peer id"),
    "models": Command("list the families of models a worker can host", "worker"),
}

HELP = """\
usage: brigade [--help | --version] [--stop-at-eof] COMMAND [options]

A swarm is a large language model served by volunteers: each worker hosts a few of its blocks,
gateways send every token through one worker after another and speak the OpenAI API.

commands:
{commands}

options:
  -h, --help      show this help; `brigade COMMAND --help` shows a command's options
  --version       show the version
  --stop-at-eof   stop when standard input ends, that is, when whoever started it is gone

examples:
  brigade up                                     a swarm with a small bundled model
  brigade worker --blocks 0:8 --join ADDRESS     host blocks 0 to 7 in an existing swarm
  brigade gateway --port 8080 --join ADDRESS     serve that swarm on port 8080
"""


def main(arguments: list[str] | None = None) -> int:
    """Run `brigade` with `arguments` (default: the process's own); returns the exit status."""
    argv = sys.argv[1:] if arguments is None else arguments
    if argv[:1] == ["--stop-at-eof"]:
        threading.Thread(target=stop_at_eof, daemon=True).start()
        argv = argv[1:]
    if argv[:1] in ([], ["-h"], ["--help"], ["help"]):
        print(help_text(), end="")
        return 0
    if argv[0] == "--version":
        print(f"brigade {metadata.version(DISTRIBUTION)}")
        return 0
    return _run(argv[0], argv[1:])


def help_text() -> str:
    """What `brigade` prints when it is not told what to do."""
    names = [*COMMANDS, *sorted(set(_entry_points()) - set(COMMANDS))]
    summaries = [COMMANDS.get(name, Command("from another package")).summary for name in names]
    width = max(len(name) for name in names)
    lines = [f"  {name:<{width}}   {text}" for name, text in zip(names, summaries, strict=True)]
    return HELP.format(commands="\n".join(lines))


def _run(name: str, argv: list[str]) -> int:
    try:
        return _main_of(name, argv)
    except ConfigError as error:
        return _complain(f"{name}: {error}", status=2)
    except BrigadeError as error:
        return _complain(f"{name}: {error}", status=1)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing in OURS:
            raise
        extras = COMMANDS.get(name, Command("")).extras
        package = f"{DISTRIBUTION}[{extras}]" if extras else DISTRIBUTION
        return _complain(
            f"{name}: the Python package {missing} is not installed; "
            f"get all it needs with: pip install '{package}'",
            status=2,
        )
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _main_of(name: str, argv: list[str]) -> int:
    found = _entry_points()
    if name in found:
        return cast("int", found[name].load()(argv))
    if name in COMMANDS:
        raise ConfigError(f"{DISTRIBUTION} is not installed here: pip install -e .")
    kind = "option" if name.startswith("-") else "command"
    near = difflib.get_close_matches(name, [*COMMANDS, *found], n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
    raise ConfigError(f"there is no such {kind}; {hint} (see brigade --help)")


def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {entry_point.name: entry_point for entry_point in metadata.entry_points(group=GROUP)}


def _complain(message: str, *, status: int) -> int:
    print(f"brigade {message}", file=sys.stderr)
    return status


def stop_at_eof() -> None:
    """Ends this process once standard input does: politely, then, if it hangs, for good.

    `brigade up` keeps the other end of a pipe open, which the kernel closes however `up` ends.
    """
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter exits
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
