"""`brigade worker`: host a span of a model."""

import os
import sys

from shared import logs
from shared.commands import parse
from shared.ports import check_port
from worker.errand import with_model
from worker.hosting import hosted_span, spec_of
from worker.settings import WorkerSettings

EPILOG = """\
examples:
  brigade worker --join /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo...     what the swarm needs most
  brigade worker --model ./my-model --max-blocks 8 --join ...      the same, eight at most
  brigade worker --model ./my-model --blocks 0:8 --join ...        these eight, whatever comes
  brigade worker --host 0.0.0.0 --public-url ws://my.host:7000 --port 7000 --join ...
"""


def main(argv: list[str]) -> int:
    """Serve a span until told to stop; returns the exit status."""
    settings = parse(WorkerSettings, argv, prog="brigade worker", epilog=EPILOG)
    logs.set_up(settings.log_level, settings.log_format)
    settings = with_model(settings)
    # what cannot work is said before torch is read and weights are loaded
    spec = spec_of(settings)
    if settings.blocks:
        hosted_span(settings.blocks, spec)
    check_port(settings.host, settings.port)
    check_port(settings.host, settings.dht_port)
    # Read by OpenMP when torch is imported: threads that spin between steps starve the neighbours
    # on a shared machine (median step 67-205 ms against 433-445 ms under contention).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from worker.lean_torch import leave_out_the_compiler  # imports torch

    leave_out_the_compiler()
    from worker.life import live  # imports transformers

    live(settings, spec)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
