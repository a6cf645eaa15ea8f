"""Who looks at a swarm sees the models there are, for as long as they are there."""

import time

import pytest

from shared import catalogue, observer
from shared.catalogue import catalogue_topic
from shared.discovery.directory import MemoryDirectory, Sighting
from shared.identity import Identity
from shared.observer import Lookout, ObserverSettings
from shared.swarm import Span
from tests.shared.announcing import ANN, BOB, CYD, live_record

CATALOGUE = catalogue_topic("local")


class Forgetful(MemoryDirectory):
    """One that does not always find the catalogue."""

    misses = False

    async def lookup(self, topic: str) -> list[Sighting]:
        return [] if self.misses and topic == CATALOGUE else await super().lookup(topic)


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Forgetful:
    for name in ("CATALOGUE_SECONDS", "LOOK_SECONDS", "CALM_SECONDS"):
        monkeypatch.setattr(observer, name, 0.0)
    return Forgetful(time.monotonic)


def lookout(directory: Forgetful) -> Lookout:
    return Lookout(ObserverSettings(), directory, lambda: 1, is_private=False)


async def announce(
    directory: Forgetful, identity: Identity, model: str, *, only_listed: bool
) -> None:
    said: dict[str, object] = {"swarm": "local", "num_blocks": 8, "span": Span(0, 4)}
    entry = live_record(identity, model="", revision="", entry_of=f"{model}@abc", **said)
    await directory.announce(CATALOGUE, entry)
    if not only_listed:
        record = live_record(identity, model=model, revision="abc", **said)
        await directory.announce(f"local/{model}@abc", record)


async def test_a_model_with_workers_stays_though_a_look_misses_the_catalogue(directory: Forgetful):
    await announce(directory, ANN, "real", only_listed=False)
    await announce(directory, BOB, "gone", only_listed=True)  # an entry that outlives its worker
    looking = lookout(directory)
    for one in await looking.at_all():
        await one.settle(1.0)
    directory.misses = True
    assert [one.key for one in await looking.at_all()] == ["real@abc"]
    await looking.close()


async def test_models_with_more_workers_are_looked_at_first(
    directory: Forgetful, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(catalogue, "MAX_MODELS", 1)
    await announce(directory, ANN, "a lone one", only_listed=True)
    for identity in (BOB, CYD):
        await announce(directory, identity, "of two", only_listed=True)
    looking = lookout(directory)
    assert [one.key for one in await looking.at_all()] == ["of two@abc"]
    await looking.close()
