"""`brigade doctor`: what is wrong with this machine's set-up, a line a check, with the remedy."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from shared import findings, logs
from shared.checkup import examine
from shared.commands import parse
from shared.doctor_settings import ROLES
from shared.errors import ConfigError
from shared.findings import Finding
from shared.status_table import printable

WORST_FIRST = ("problem", "warning", "ok")
STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}

EPILOG = """\
usage: brigade doctor [worker | gateway | bootstrap] [options], a worker if it does not say

Its options are those of the command that matter here, under the same names, and it reads the
command's own variables and .env file. Of a worker it asks gateways to dial back, which tells
whether it can be reached from outside. It changes nothing. The exit status is 1 when there is a
problem; warnings leave it at 0.

examples:
  brigade doctor --join /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo... --model OWNER/NAME --port 7000
  brigade doctor gateway --resume-store redis://127.0.0.1:6379/0 --json
"""


def main(argv: list[str]) -> int:
    """Check everything and say what was found; returns 1 when there is a problem."""
    role = argv[0] if argv and not argv[0].startswith("-") else ""
    if role and role not in ROLES:
        raise ConfigError(f"there is no {role!r} to check; there are {', '.join(ROLES)}")
    options = argv[1:] if role else argv
    role = role or "worker"
    settings = parse(ROLES[role], options, prog=f"brigade doctor {role}", epilog=EPILOG)
    logs.set_up("error", "console")
    found = asyncio.run(examine(role, settings))
    if settings.as_json:
        print(json.dumps([asdict(finding) for finding in found]))
    else:
        report(found)
    return findings.exit_code(found)


def report(found: Sequence[Finding]) -> None:
    """A line for each finding, its remedy below, and what it comes to."""
    console = Console() if sys.stdout.isatty() else Console(width=1000)
    for finding in found:
        line = Text(f"{finding.level:<8} ", style=STYLES[finding.level])
        line.append(f"{finding.check}: {printable(finding.says, 500)}", style="not bold default")
        console.print(line)
        if finding.remedy:
            console.print(Text(f"{'':<8}   -> {printable(finding.remedy, 500)}"))
    problems, warnings, fine = (sum(o.level == level for o in found) for level in WORST_FIRST)
    console.print(f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}, {fine} ok")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
