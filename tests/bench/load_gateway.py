"""The gateway that tests.bench.load measures: the real application over links to one worker.

Its discovery is in memory, and its one worker is the one whose signed announcement it is given.
"""

import argparse
import asyncio
import cProfile
import signal
import time
from contextlib import nullcontext

import msgspec
import uvicorn
import uvloop

from gateway.admission import Admission
from gateway.app import build_app
from gateway.checkpoints import Checkpoints
from gateway.generate import SwarmGenerator
from gateway.links import Links
from gateway.means import Limits
from gateway.metrics import GatewayMetrics
from shared import logs
from shared.discovery.directory import MemoryDirectory
from shared.discovery.watcher import Watcher
from shared.garbage import spare_what_is_here
from shared.identity import Identity
from tests.bench.relay import TOPIC
from tests.fakes import SPEC as FAKE_SPEC
from tests.gateway.conftest import services_around
from tests.scripted_worker import SPEC, SWARM

MAX_STREAMS = 4096


async def serve(record: bytes, port: int) -> None:
    """Serve until told to stop."""
    # uvicorn raises the signal again at its end: to this, so that there is an end to see
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
    directory = MemoryDirectory(time.monotonic)
    await directory.announce(TOPIC, record)
    watcher = Watcher(directory, TOPIC)
    await watcher.refresh()
    links = Links(Identity.create(), SWARM, watcher)
    keeper = asyncio.create_task(links.keep_linked())
    metrics = GatewayMetrics()
    limits = Limits(512, 0, 60, 60)
    generator = SwarmGenerator(SPEC, links, Checkpoints(1 << 26), limits, metrics)
    services = services_around(
        generator,  # type: ignore[arg-type]
        metrics=metrics,
        is_ready=lambda: bool(links.linked()) or "the worker is not linked yet",
        spec=msgspec.structs.replace(FAKE_SPEC, max_positions=SPEC.max_positions),
        admission=Admission(max_streams=MAX_STREAMS, max_waiting=MAX_STREAMS),
    )
    config = uvicorn.Config(
        build_app(services),
        port=port,
        log_level="warning",
        lifespan="off",
        ws="none",
        access_log=False,
        backlog=4096,
    )
    spare_what_is_here()
    await uvicorn.Server(config).serve()
    keeper.cancel()
    await links.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("record", type=bytes.fromhex, help="the worker's, in hex")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--profile", help="file for cProfile's numbers")
    options = parser.parse_args()
    logs.set_up("warning")
    with cProfile.Profile() if options.profile else nullcontext() as profile:
        uvloop.run(serve(options.record, options.port))
    if profile is not None:
        profile.dump_stats(options.profile)


if __name__ == "__main__":
    main()
