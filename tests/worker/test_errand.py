"""Which model a worker takes that was told none."""

import time

import pytest
from msgspec.structs import replace

from shared.catalogue import Catalogue, by_need, entry, state_of
from shared.discovery.directory import MemoryDirectory
from shared.identity import Identity
from shared.model_files import BUNDLED, revision_of
from shared.records import sign_announcement
from shared.swarm import Announcement, PeerId, Span
from tests.shared.test_catalogue import ANN, BOB, announcement
from worker.errand import look, source_of, with_model
from worker.settings import WorkerSettings

JOIN = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWDGwPhginUVjGTqYWG5b82pZeoVLZkhJdzBw5YC7Se74E"


def view(*spans: str, speed: float = 100.0) -> dict[PeerId, Announcement]:
    workers = zip((ANN, BOB), spans, strict=False)
    said = {
        PeerId(one.peer): replace(announcement(one), span=Span.parse(span), speed=speed)
        for one, span in workers
    }
    return said


def test_what_lacks_the_fewest_blocks_comes_first_then_what_is_slowest():
    catalogue: Catalogue = {
        "fast@1": view("0:8", speed=900.0),
        "slow@1": view("0:4", "4:8"),
        "begun@1": view("0:2"),
        "nearly@1": view("0:6"),
    }
    assert by_need(catalogue, catalogue) == ["nearly@1", "begun@1", "slow@1", "fast@1"]
    assert state_of(catalogue["nearly@1"], 8) == "nobody hosts 2 of its blocks"
    assert state_of(catalogue["slow@1"], 8) == "25.0 tokens/s"


async def told(directory: MemoryDirectory, of: Identity, model: str, *, lives: bool = True):
    """A worker of half of a model puts its entry into the catalogue, and is there or is not."""
    said = announcement(of, model)
    entries = [entry(said), said] if lives else [entry(said)]
    for one in entries:
        await directory.announce(one.topic, sign_announcement(of, one))


async def test_entries_of_the_dead_say_which_model_there_is_and_not_that_it_is_hosted():
    directory = MemoryDirectory(time.monotonic)
    await told(directory, ANN, "a/lives")
    await told(directory, BOB, "b/died", lives=False)
    catalogue, workers = await look(directory, "home", seconds=0)
    assert by_need(catalogue, workers) == ["a/lives@r1", "b/died@r1"]
    assert state_of(workers["b/died@r1"], 8) == "nobody hosts 8 of its blocks"
    assert state_of(workers["a/lives@r1"], 8) == "nobody hosts 4 of its blocks"


async def test_where_nothing_is_listed_there_is_nothing():
    assert await look(MemoryDirectory(time.monotonic), "home", seconds=0) == ({}, {})


def test_models_are_had_from_the_hub_at_their_revision_or_are_bundled():
    assert source_of("acme/tiny@0123") == "acme/tiny@0123"
    assert source_of(f"brigade-tiny@{revision_of(BUNDLED)}") == ""
    assert source_of("brigade-tiny@other") is None
    assert source_of("somebodys-folder@0123") is None


@pytest.mark.parametrize(
    "told",
    [{"model": "acme/tiny"}, {"model_name": "m"}, {"blocks": "0:4"}, {"join": []}],
)
def test_who_is_told_anything_that_settles_it_asks_nobody(told: dict[str, str]):
    settings = WorkerSettings(**{"join": [JOIN], **told})  # pyright: ignore[reportArgumentType]
    assert with_model(settings) is settings
