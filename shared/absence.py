"""Says why there are no workers, once there have been none for a while."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from shared.catalogue import read_catalogue, why_nobody
from shared.discovery.directory import Directory
from shared.discovery.watcher import Watcher
from shared.errors import PeerUnreachable
from shared.swarm import ModelSpec

log = structlog.get_logger()

PATIENCE_SECONDS = 20.0
"""How long there may be nobody before anything is said."""
REPEAT_SECONDS = 60.0


@dataclass(frozen=True)
class Absence:
    """Why a model's workers may not be seen; asked of the directory that they would be seen in."""

    directory: Directory
    spec: ModelSpec
    swarm: str
    is_private: bool
    known_peers: Callable[[], int]
    """How many nodes of the swarm are known."""

    async def explained(self) -> str:
        """A sentence of what to compare."""
        if not self.known_peers():
            return "no node of the swarm is known that answers: see --join"
        try:
            catalogue = await read_catalogue(self.directory, self.swarm, now=time.time())
        except PeerUnreachable as error:
            return f"no node of the swarm can be asked: {error}; see --join"
        return why_nobody(
            catalogue,
            swarm=self.swarm,
            model=self.spec.name,
            revision=self.spec.revision,
            is_private=self.is_private,
        )

    async def watch(self, watcher: Watcher) -> None:
        """Log it as long as nobody is seen, again and again."""
        while True:
            await asyncio.sleep(PATIENCE_SECONDS)
            if not watcher.view:
                log.warning("no_workers", model=self.spec.name, reason=await self.explained())
                await asyncio.sleep(REPEAT_SECONDS - PATIENCE_SECONDS)
