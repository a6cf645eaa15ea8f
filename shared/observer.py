"""Joins a swarm to look at it and for nothing else: it hosts nothing, and keeps no key."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from pydantic import Field
from pydantic_settings import BaseSettings

from shared.absence import Absence
from shared.catalogue import Catalogue, most_hosted, none_at_all, read_catalogue, spec_told
from shared.commands import Addresses, OptionalPath
from shared.discovery.directory import Directory
from shared.discovery.kademlia import KademliaDirectory
from shared.discovery.sealed import directory_of
from shared.discovery.watcher import Watcher
from shared.errors import ConfigError, PeerUnreachable
from shared.identity import Identity
from shared.model_files import locate, name_of, read_spec
from shared.secret import SwarmSecret
from shared.swarm import ModelSpec, PeerId, Span, SwarmView, topic_of, uncovered

CALM_SECONDS = 5.0
"""A view in which nobody has come or gone for so long is taken for all there is."""
CATALOGUE_SECONDS = 10.0
"""Time between two looks at what models there are."""
NUM_LOOKS = 3
LOOK_SECONDS = 1.0
"""So often, and with such pauses, before there are said to be none."""


class ObserverSettings(BaseSettings):
    """What every command that looks at a swarm must be told."""

    join: Addresses = Field([], description="known nodes of the swarm; may be repeated")
    swarm: str = Field("local", min_length=1, max_length=128, description="the swarm's name")
    swarm_secret_file: OptionalPath = Field(
        None, description="file of a private swarm's secret; empty = BRIGADE_SWARM_SECRET, if any"
    )
    model: str = Field(
        "", description="model directory or OWNER/NAME[@REVISION]; empty = what the swarm hosts"
    )
    model_name: str = Field("", description="name it is served under; empty = the directory's name")
    wait_seconds: float = Field(
        12.0, gt=0, le=600, description="how long to look for workers before saying there are none"
    )


@dataclass(frozen=True)
class Observer:
    """A look at the workers of one model; the view stays fresh while it lasts."""

    spec: ModelSpec
    watcher: Watcher
    absence: Absence

    @property
    def key(self) -> str:
        """MODEL@REVISION."""
        return f"{self.spec.name}@{self.spec.revision}"

    @property
    def view(self) -> SwarmView:
        """The workers that are believed at this moment."""
        return self.watcher.view

    @property
    def is_covered(self) -> bool:
        """Whether every block has a worker that stays."""
        staying = (one.span for one in self.view.values() if not one.leaving)
        return not uncovered(staying, self.spec.blocks)

    async def settle(self, seconds: float) -> None:
        """Wait, for so long at most, until all is covered, or nobody comes or goes any more."""
        deadline = time.monotonic() + seconds
        until, who = deadline, _who(self.view)
        while not self.is_covered and (left := until - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.watcher.wait_changed()
            if who != (who := _who(self.view)):
                until = min(deadline, time.monotonic() + CALM_SECONDS)


class Lookout:
    """A member of the DHT that answers nobody, and the observers who look through it."""

    def __init__(
        self,
        settings: ObserverSettings,
        directory: Directory,
        known_peers: Callable[[], int],
        *,
        is_private: bool,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._known_peers = known_peers
        self._is_private = is_private
        self._observers: dict[str, Observer] = {}
        self._due_at = float("-inf")

    async def at_model(self, spec: ModelSpec) -> Observer:
        """Look at one model."""
        key = f"{spec.name}@{spec.revision}"
        if key not in self._observers:
            watcher = Watcher(
                self._directory, topic_of(self._settings.swarm, spec.name, spec.revision)
            )
            absence = Absence(
                *(self._directory, spec, self._settings.swarm, self._is_private),
                known_peers=self._known_peers,
            )
            self._observers[key] = Observer(spec, watcher, absence)
            await watcher.start()
        return self._observers[key]

    async def at_all(self) -> list[Observer]:
        """Look at every model that there is by now, in the order of their names.

        Raises PeerUnreachable when nobody can be asked.
        """
        if time.monotonic() >= self._due_at:
            catalogue = await self.catalogue()
            self._due_at = time.monotonic() + CATALOGUE_SECONDS
            await self._forget(
                [key for key in self._observers if not self._is_there(key, catalogue)]
            )
            for key, entries in most_hosted(catalogue).items():
                await self.at_model(spec_told(key, entries))
        return [self._observers[key] for key in sorted(self._observers)]

    async def catalogue(self) -> Catalogue:
        """The models there are; none after several looks in vain. Raises PeerUnreachable."""
        for number in range(NUM_LOOKS):
            await asyncio.sleep(LOOK_SECONDS if number else 0)
            found = await read_catalogue(self._directory, self._settings.swarm, now=time.time())
            if found:
                return found
        return {}

    def why_none(self) -> str:
        """Why the swarm may have no models at all."""
        return none_at_all(self._settings.swarm, is_private=self._is_private)

    async def close(self) -> None:
        """Look no more."""
        await self._forget(list(self._observers))

    def _is_there(self, key: str, catalogue: Catalogue) -> bool:
        """Whether a model is listed, or has workers though one look missed their entries."""
        return key in catalogue or bool(self._observers[key].view)

    async def _forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._observers.pop(key).watcher.stop()


@asynccontextmanager
async def looking_out(settings: ObserverSettings) -> AsyncGenerator[Lookout]:
    """Be a member of the DHT that answers nobody.

    Raises ConfigError; PeerUnreachable when no node of the swarm answers.
    """
    if not settings.join:
        raise ConfigError("a swarm is looked at through one of its nodes: give --join ADDRESS")
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
        lookout = Lookout(settings, listed, directory.known_peers, is_private=secret is not None)
        try:
            yield lookout
        finally:
            await lookout.close()
    finally:
        await directory.stop()


def names_model(settings: ObserverSettings) -> bool:
    """Whether one model is asked about; else it is what the swarm hosts."""
    return bool(settings.model or settings.model_name)


def spec_of(settings: ObserverSettings) -> ModelSpec:
    """What is known of the model looked for: workers are listed by it. Raises ModelError."""
    name = settings.model_name or name_of(settings.model)
    return read_spec(locate(settings.model), name)


def _who(view: SwarmView) -> set[tuple[PeerId, Span, bool]]:
    return {(peer, worker.span, worker.leaving) for peer, worker in view.items()}
