"""A private swarm's secret: who does not know it joins no link and lists no worker."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.discovery.directory import MemoryDirectory
from shared.discovery.sealed import SealedDirectory
from shared.discovery.sightings import Sightings
from shared.errors import ConfigError, HandshakeError, PeerUnreachable, RecordError
from shared.records import MAX_RECORD_BYTES, directory_key, open_record
from shared.secret import SwarmSecret
from shared.wire.handshake import Handshake
from shared.wire.messages import Proof
from tests.shared.announcing import ANN, BOB, NOW, TOPIC, Clock, announcement, record
from tests.shared.test_handshake import converse
from tests.shared.test_link import Peer

OURS, THEIRS = SwarmSecret("correct horse battery", "home"), SwarmSecret("x" * 16, "home")


def side(identity, name, secret):
    return Handshake(identity, "home", name, nonce=bytes(32), secret=secret)


def test_members_prove_themselves_to_each_other():
    ann, bob = side(ANN, "dialler", OURS), side(BOB, "listener", OURS)
    converse(ann, bob)
    assert (ann.peer, bob.peer) == (BOB.peer, ANN.peer)


@pytest.mark.parametrize(
    ("one", "other", "complaint"),
    [
        (OURS, THEIRS, "has another secret"),
        (OURS, None, "is private to"),
        (None, OURS, "is private to"),
    ],
    ids=["another", "listener has none", "dialler has none"],
)
def test_whoever_does_not_know_the_secret_is_refused(one, other, complaint):
    ann, bob = side(ANN, "dialler", one), side(BOB, "listener", other)
    with pytest.raises(HandshakeError, match=complaint):
        converse(ann, bob)
    assert bob.peer is None


def test_a_stranger_s_membership_cannot_be_ours_sent_back():
    bob = side(BOB, "listener", OURS)
    eve = side(ANN, "dialler", OURS)  # stands for one who knows only what bob said
    (hello,) = eve.begin()
    _, proof = bob.receive(hello)
    assert isinstance(proof, Proof)
    reflected = Proof(ANN.sign(eve_transcript(eve, bob)), proof.membership)
    with pytest.raises(HandshakeError, match="has another secret"):
        bob.receive(reflected)


def eve_transcript(eve: Handshake, bob: Handshake) -> bytes:
    eve._theirs = bob._ours
    return eve._transcript("dialler")


async def test_both_sides_hear_at_once_that_their_secrets_differ():
    ann, bob = Peer(ANN), Peer(BOB)
    ann.pool._secret, bob.pool._secret = OURS, THEIRS
    server = await bob.pool.listen("127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with capture_logs() as logs:
        with pytest.raises(PeerUnreachable, match="has another secret for swarm 'home'"):
            await ann.pool.connect(BOB.peer, url)
        async with asyncio.timeout(5):
            while not logs:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    assert "has another secret for swarm 'home'" in logs[0]["error"]
    await ann.pool.close()
    await bob.pool.close()
    server.close()


async def test_members_find_each_other_s_true_records():
    shared = MemoryDirectory(Clock())
    sealed = SealedDirectory(shared, OURS, ANN)
    assert await sealed.announce(TOPIC, record(ANN)) == 1
    (sighting,) = await SealedDirectory(shared, OURS, BOB).lookup(TOPIC)
    assert sighting.record == record(ANN)
    sightings = Sightings()
    sightings.merge(TOPIC, [sighting], clock=NOW, monotonic=0.0)
    assert sightings.view == {ANN.peer: announcement(ANN)}


async def test_outsiders_find_nothing_and_read_nothing():
    shared = MemoryDirectory(Clock())
    await SealedDirectory(shared, OURS, ANN).announce(TOPIC, record(ANN))
    assert await shared.lookup(TOPIC) == []
    assert await SealedDirectory(shared, THEIRS, BOB).lookup(TOPIC) == []
    (topic,) = shared._held
    assert directory_key(topic) != directory_key(TOPIC)
    (stored,) = [held for held, _ in shared._held[topic].values()]
    for told in (b"acme", b"9000", b"abc123"):
        assert told in record(ANN)
        assert told not in stored
    assert open_record(stored).url == "ws://sealed.invalid"


async def test_a_veil_that_a_holder_put_on_another_s_box_is_left_out():
    shared, sealed = MemoryDirectory(Clock()), SealedDirectory(MemoryDirectory(Clock()), OURS, BOB)
    veil = sealed._veil(TOPIC, announcement(ANN), record(ANN))
    await shared.announce(
        veil.topic, record(BOB, swarm=veil.swarm, model="", revision="", sealed=veil.sealed)
    )
    assert await SealedDirectory(shared, OURS, BOB).lookup(TOPIC) == []


def test_the_longest_record_fits_its_veil():
    long = announcement(ANN, url="ws://" + "u" * 500, node="n" * 256, swarm="s" * 128)
    sealed = SealedDirectory(MemoryDirectory(Clock()), OURS, ANN)
    veil = sealed._veil(
        long.topic, long, record(ANN, url=long.url, node=long.node, model="m" * 256)
    )
    assert len(veil.sealed) < 3072 < MAX_RECORD_BYTES


def test_a_box_opens_with_its_secret_and_context_only():
    box = OURS.seal(b"hush", context=b"a")
    assert OURS.unseal(box, context=b"a") == b"hush"
    assert OURS.seal(b"hush", context=b"a") != box
    for secret, sealed, context in (
        (THEIRS, box, b"a"),
        (OURS, box, b"b"),
        (OURS, box[:-1], b"a"),
        (OURS, b"", b"a"),
    ):
        with pytest.raises(RecordError):
            secret.unseal(sealed, context=context)


def test_a_swarm_of_another_name_has_other_keys():
    assert SwarmSecret("x" * 16, "work").topic(TOPIC) != THEIRS.topic(TOPIC)


def test_a_short_secret_is_refused_and_a_better_one_shown():
    with pytest.raises(ConfigError, match="openssl rand"):
        SwarmSecret("hunter2", "home")


def test_a_secret_is_read_from_its_file_or_else_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BRIGADE_SWARM_SECRET", raising=False)
    assert SwarmSecret.load(None, "home") is None
    monkeypatch.setenv("BRIGADE_SWARM_SECRET", "x" * 16)
    named = SwarmSecret.load(None, "home")
    assert named is not None
    assert named.topic(TOPIC) == THEIRS.topic(TOPIC)
    file = tmp_path / "secret"
    file.write_text("correct horse battery\n")
    kept = SwarmSecret.load(file, "home")
    assert kept is not None
    assert kept.topic(TOPIC) == OURS.topic(TOPIC)


@pytest.mark.parametrize("content", [None, b"\xff" * 20, b""], ids=["missing", "binary", "empty"])
def test_a_secret_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None):
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="secret"):
        SwarmSecret.load(file, "home")
