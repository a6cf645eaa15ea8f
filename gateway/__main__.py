"""`brigade gateway`: answer OpenAI clients with what the workers of a swarm compute."""

import os
import sys

from gateway.settings import GatewaySettings
from shared import logs
from shared.commands import parse

EPILOG = """\
examples:
  brigade gateway --join /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo...    the bundled model on port 8000
  brigade gateway --model Qwen/Qwen3-8B --port 0 --join ...        any free port
"""


def main(argv: list[str]) -> int:
    """Serve HTTP until told to stop; returns the exit status."""
    settings = parse(GatewaySettings, argv, prog="brigade gateway", epilog=EPILOG)
    logs.set_up(settings.log_level, settings.log_format)
    # A gateway opens no tensor. transformers, which brings tokenizer and chat template, imports
    # torch wherever it is installed: hidden from it, a start takes 1 s and 200 MB less.
    sys.modules["torch"] = None  # type: ignore[assignment]
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found"
    from gateway.node import live

    live(settings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
