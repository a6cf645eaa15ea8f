"""An identity survives a restart, names its peer and proves what it says."""

import os
from pathlib import Path

import pytest

from shared.errors import ConfigError, ProtocolError
from shared.identity import Identity, public_key_of, verify
from shared.swarm import PeerId


def test_the_same_seed_is_the_same_peer():
    assert Identity(bytes(32)).peer == Identity(bytes(32)).peer
    assert Identity(bytes(32)).peer.startswith("12D3KooW")
    assert Identity.create().peer != Identity.create().peer


def test_a_peer_id_holds_the_public_key():
    identity = Identity.create()
    assert public_key_of(identity.peer) == identity.public_key


@pytest.mark.parametrize(
    "peer", ["", "0OIl", "12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"]
)
def test_other_peer_ids_hold_no_key(peer: str):
    with pytest.raises(ProtocolError):
        public_key_of(PeerId(peer))


def test_a_signature_holds_for_its_message_and_peer_only():
    ann, bob = Identity.create(), Identity.create()
    signature = ann.sign(b"water")
    verify(ann.peer, b"water", signature)
    for peer, message in ((bob.peer, b"water"), (ann.peer, b"fire")):
        with pytest.raises(ProtocolError, match="signature"):
            verify(peer, message, signature)


def test_a_file_keeps_the_identity(tmp_path: Path):
    path = tmp_path / "new" / "worker.key"
    first = Identity.load_or_create(path)
    assert Identity.load_or_create(path).peer == first.peer
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["worker.key"]


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33])
def test_a_broken_file_is_named_and_not_replaced(tmp_path: Path, text: str):
    path = tmp_path / "worker.key"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"worker\.key|an identity is"):
        Identity.load_or_create(path)
    assert path.read_text() == text


def test_a_place_that_cannot_be_written_is_an_operators_mistake(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="identity file"):
        Identity.load_or_create(tmp_path / "file" / "worker.key")


def test_an_identity_is_claimed_by_one_process_at_a_time(tmp_path: Path):
    first = Identity.claim(tmp_path / "a.key")
    with pytest.raises(ConfigError, match="in use by another process"):
        Identity.claim(tmp_path / "a.key")
    first.release()
    second = Identity.claim(tmp_path / "a.key")
    assert second.peer == first.peer
    second.release()


def test_a_peer_id_has_one_form_only():
    peer = Identity.create().peer
    with pytest.raises(ProtocolError):
        public_key_of(PeerId(f" {peer}"))
