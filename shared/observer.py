"""Joins a swarm to look at it and for nothing else: it hosts nothing, and keeps no key."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import Field
from pydantic_settings import BaseSettings

from shared.absence import Absence
from shared.commands import Addresses, OptionalPath
from shared.discovery.kademlia import KademliaDirectory
from shared.discovery.sealed import directory_of
from shared.discovery.watcher import Watcher
from shared.errors import ConfigError, PeerUnreachable
from shared.identity import Identity
from shared.model_files import locate, name_of, read_spec
from shared.secret import SwarmSecret
from shared.swarm import ModelSpec, SwarmView, topic_of


class ObserverSettings(BaseSettings):
    """What every command that looks at a swarm must be told."""

    join: Addresses = Field([], description="known nodes of the swarm; may be repeated")
    swarm: str = Field("local", min_length=1, max_length=128, description="the swarm's name")
    swarm_secret_file: OptionalPath = Field(
        None, description="file of a private swarm's secret; empty = BRIGADE_SWARM_SECRET, if any"
    )
    model: str = Field("", description="model directory or OWNER/NAME[@REVISION]; empty = bundled")
    model_name: str = Field("", description="name it is served under; empty = the directory's name")
    wait_seconds: float = Field(
        20.0, gt=0, le=600, description="how long to look for workers before saying there are none"
    )


@dataclass(frozen=True)
class Observer:
    """A look at the workers of one model; the view stays fresh while it lasts."""

    spec: ModelSpec
    watcher: Watcher
    directory: KademliaDirectory
    absence: Absence

    @property
    def view(self) -> SwarmView:
        """The workers that are believed at this moment."""
        return self.watcher.view

    async def wait_until(self, is_enough: Callable[[SwarmView], bool], *, seconds: float) -> bool:
        """Wait until the view is enough, for so long at most; whether it is."""
        try:
            async with asyncio.timeout(seconds):
                while not is_enough(self.view):
                    await self.watcher.wait_changed()
        except TimeoutError:
            return is_enough(self.view)
        return True


@asynccontextmanager
async def observing(settings: ObserverSettings) -> AsyncGenerator[Observer]:
    """Be a member of the DHT that answers nobody.

    Raises ConfigError or ModelError; PeerUnreachable when no node of the swarm answers.
    """
    if not settings.join:
        raise ConfigError("a swarm is looked at through one of its nodes: give --join ADDRESS")
    spec = spec_of(settings)
    secret = SwarmSecret.load(settings.swarm_secret_file, settings.swarm)
    identity = Identity.create()
    directory = KademliaDirectory(identity, join=settings.join, server=False)
    await directory.start()
    try:
        if not directory.known_peers():
            raise PeerUnreachable(
                f"no node of the swarm answers at {', '.join(settings.join)}; see whether it runs "
                "and can be reached from here, e.g. with: brigade doctor --join ADDRESS"
            )
        listed = directory_of(directory, secret, identity)
        watcher = Watcher(listed, topic_of(settings.swarm, spec.name, spec.revision))
        await watcher.start()
        try:
            absence = Absence(
                listed, spec, settings.swarm, secret is not None, known_peers=directory.known_peers
            )
            yield Observer(spec, watcher, directory, absence)
        finally:
            await watcher.stop()
    finally:
        await directory.stop()


def spec_of(settings: ObserverSettings) -> ModelSpec:
    """What is known of the model looked for: workers are listed by it. Raises ModelError."""
    name = settings.model_name or name_of(settings.model)
    return read_spec(locate(settings.model), name)
