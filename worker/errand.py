"""Which of a swarm's models a worker that was told none should help with.

What nobody can use yet for want of a few blocks comes first, then what is slowest.
"""

import asyncio
import time

from shared.catalogue import (
    Catalogue,
    by_need,
    few,
    most_hosted,
    read_catalogue,
    read_workers,
    size_of,
    state_of,
)
from shared.discovery.directory import Directory
from shared.discovery.kademlia import KademliaDirectory
from shared.discovery.sealed import directory_of
from shared.errors import ConfigError, PeerUnreachable
from shared.hub import HubModel
from shared.identity import Identity
from shared.model_files import BUNDLED, BUNDLED_NAME, revision_of
from shared.secret import SwarmSecret
from worker.saying import say
from worker.settings import WorkerSettings

LOOK_SECONDS = 1.0


def with_model(settings: WorkerSettings) -> WorkerSettings:
    """The settings with a model the swarm needs help with, unless they name one.

    Raises ConfigError when there are models and none that can be had.
    """
    if settings.model or settings.model_name or settings.blocks or not settings.join:
        return settings
    catalogue, workers = asyncio.run(_looked_at(settings))
    if not catalogue:
        say(f"sees no worker of any model in swarm {settings.swarm!r}; takes {BUNDLED_NAME}")
        return settings
    order = by_need(catalogue, workers)
    for key in order:
        source = source_of(key)
        if source is not None:
            state = state_of(workers[key], size_of(catalogue[key]))
            say(f"sees {few(order)}; {key} needs help most: {state}")
            return settings.model_copy(update={"model": source})
    raise ConfigError(
        f"swarm {settings.swarm!r} has {few(order)}, and none of them is on the hub: give "
        "--model the folder of one"
    )


def source_of(key: str) -> str | None:
    """What --model would be for MODEL@REVISION; None for what cannot be had by its name."""
    name, _, revision = key.rpartition("@")
    if name == BUNDLED_NAME and revision == revision_of(BUNDLED):
        return ""
    return key if HubModel.parse(name) else None


async def _looked_at(settings: WorkerSettings) -> tuple[Catalogue, Catalogue]:
    say(f"was given no --model; looks for {settings.settle_seconds:g} s at what the swarm hosts")
    identity = Identity.create()
    directory = KademliaDirectory(identity, join=settings.join, server=False)
    secret = SwarmSecret.load(settings.swarm_secret_file, settings.swarm)
    await directory.start()
    try:
        listed = directory_of(directory, secret, identity)
        return await look(listed, settings.swarm, settings.settle_seconds)
    finally:
        await directory.stop()


async def look(directory: Directory, swarm: str, seconds: float) -> tuple[Catalogue, Catalogue]:
    """The models that are listed, and who of each is there; for so long at most, until there are
    models and none of them seems to have nobody."""
    deadline = time.monotonic() + seconds
    catalogue: Catalogue = {}
    workers: Catalogue = {}
    while True:
        try:
            listed = most_hosted(await read_catalogue(directory, swarm, now=time.time()))
            workers = await read_workers(directory, swarm, listed, now=time.time())
            catalogue = listed
        except PeerUnreachable as error:
            say(f"nobody can be asked yet: {error}")
        if (workers and all(workers.values())) or time.monotonic() > deadline:
            return catalogue, workers
        await asyncio.sleep(LOOK_SECONDS)
