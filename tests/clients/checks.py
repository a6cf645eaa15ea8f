"""What every script here shares: where the gateway is, and checks that are run one after another.

The scripts run in environments of their own, with nothing of this project to import.
"""

import asyncio
import inspect
import os
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable
from typing import Any

URL = os.environ["GATEWAY"]
MODEL = "brigade-tiny"
QUESTION = "What is Bucket Brigade?"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["bucket", "rope", "ladder"]},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["kind", "size"],
    "additionalProperties": False,
}

_checks: list[Callable[[], Any]] = []


def check(claim: Callable[[], Any]) -> Callable[[], Any]:
    """A function that raises when what its name says is not so."""
    _checks.append(claim)
    return claim


def run() -> None:
    """All checks; the process fails when one of them does."""
    failed = 0
    for claim in _checks:
        try:
            result = claim()
            if inspect.isawaitable(result):
                asyncio.run(_wait(result))
            print(f"ok    {claim.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {claim.__name__}\n{traceback.format_exc()}", flush=True)
    sys.exit(bool(failed))


async def _wait(result: Any) -> None:
    await result


def raised(kind: type[Exception], call: Callable[..., Any], **options: Any) -> Any:
    """The error that a call ends in, which has to be of this kind."""
    try:
        call(**options)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def is_thing(value: Any) -> bool:
    """Whether a value is what SCHEMA describes."""
    return (
        isinstance(value, dict)
        and value.keys() == {"kind", "size"}
        and value["kind"] in ("bucket", "rope", "ladder")
        and isinstance(value["size"], int)
        and 0 <= value["size"] <= 99
    )


def wait_until_idle(seconds: float = 10) -> None:
    """Returns once the gateway runs no generation; raises when it does not stop in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{URL}/metrics") as page:
            if b"brigade_gateway_requests_running 0.0" in page.read():
                return
        time.sleep(0.05)
    raise AssertionError("a generation runs on after its client has gone")
