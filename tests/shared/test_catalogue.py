"""The list of a swarm's models, and what it says to who finds nobody."""

import time

from shared.absence import Absence
from shared.catalogue import LEASE_SECONDS, catalogue_topic, entry, read_catalogue, why_nobody
from shared.discovery.directory import MemoryDirectory
from shared.discovery.sealed import directory_of
from shared.identity import Identity
from shared.records import sign_announcement
from shared.secret import SwarmSecret
from shared.swarm import Announcement, ModelSpec, PeerId, Span

ANN, BOB = Identity(bytes([1]) * 32), Identity(bytes([2]) * 32)
SECRET = SwarmSecret("correct horse battery staple", "home")


def announcement(of: Identity, model: str = "acme/tiny", revision: str = "r1") -> Announcement:
    return Announcement(
        worker=PeerId(of.peer),
        swarm="home",
        model=model,
        revision=revision,
        span=Span(0, 4),
        num_blocks=8,
        url="ws://192.0.2.1:7000",
        dtype="float32",
        sequence=1,
        issued_at=time.time(),
        lease_seconds=12.0,
        speed=100.0,
    )


async def listed(*said: tuple[Identity, Announcement], secret: SwarmSecret | None = None):
    directory = MemoryDirectory(time.monotonic)
    for identity, one in said:
        found = entry(one)
        assert (found.topic, found.lease_seconds) == (catalogue_topic("home"), LEASE_SECONDS)
        theirs = directory_of(directory, secret, identity)
        await theirs.announce(found.topic, sign_announcement(identity, found))
    return directory


async def test_workers_are_found_by_model_without_knowing_any():
    directory = await listed(
        (ANN, announcement(ANN)), (BOB, announcement(BOB, "own/model", "0123456789ab"))
    )
    catalogue = await read_catalogue(directory, "home", now=time.time())
    assert {key: list(view) for key, view in catalogue.items()} == {
        "acme/tiny@r1": [ANN.peer],
        "own/model@0123456789ab": [BOB.peer],
    }
    assert catalogue["acme/tiny@r1"][PeerId(ANN.peer)].model == "acme/tiny"


async def test_entries_of_another_time_or_swarm_are_left_out():
    directory = await listed((ANN, announcement(ANN)))
    assert await read_catalogue(directory, "home", now=time.time() + 1000) == {}
    assert await read_catalogue(directory, "else", now=time.time()) == {}


async def test_names_that_a_terminal_would_obey_are_left_out():
    directory = await listed((ANN, announcement(ANN, "acme/\x1b[2Jtiny")))
    assert await read_catalogue(directory, "home", now=time.time()) == {}


async def test_a_private_swarm_s_models_are_told_to_members_alone():
    directory = await listed((ANN, announcement(ANN)), secret=SECRET)
    members = directory_of(directory, SECRET, BOB)
    strangers = directory_of(directory, SwarmSecret("wrong horse battery staple", "home"), BOB)
    assert list(await read_catalogue(members, "home", now=time.time())) == ["acme/tiny@r1"]
    assert await read_catalogue(strangers, "home", now=time.time()) == {}
    assert await read_catalogue(directory, "home", now=time.time()) == {}


async def why(directory: MemoryDirectory, model: str, revision: str, *, private: bool = False):
    catalogue = await read_catalogue(directory, "home", now=time.time())
    return why_nobody(catalogue, swarm="home", model=model, revision=revision, is_private=private)


async def test_who_finds_nobody_hears_what_to_compare():
    directory = await listed((ANN, announcement(ANN)))
    assert "revision r1, not r2" in await why(directory, "acme/tiny", "r2")
    assert "hosts acme/tiny@r1, not own@r" in await why(directory, "own", "r")
    nobody = MemoryDirectory(time.monotonic)
    assert "--swarm" in await why(nobody, "own", "r")
    assert "it is private" in await why(nobody, "own", "r")
    assert "its secret is another" in await why(nobody, "own", "r", private=True)


async def test_who_knows_no_node_hears_that_before_anything_else():
    spec = ModelSpec("m", "r", 8, 16, 100, 128)
    directory = MemoryDirectory(time.monotonic)
    alone = Absence(directory, spec, "home", is_private=False, known_peers=lambda: 0)
    assert "--join" in await alone.explained()
    member = Absence(directory, spec, "home", is_private=False, known_peers=lambda: 1)
    assert "--swarm" in await member.explained()
