"""The peer cache is read when it is sound and ignored when it is not."""

from pathlib import Path

import pytest

from shared.discovery import peer_cache


def test_members_survive_a_restart(tmp_path: Path):
    path = tmp_path / "new" / "peers.json"
    assert peer_cache.load(path) == []
    peer_cache.save(path, ["/ip4/192.0.2.7/tcp/1/p2p/x"])
    assert peer_cache.load(path) == ["/ip4/192.0.2.7/tcp/1/p2p/x"]
    assert [p.name for p in path.parent.iterdir()] == ["peers.json"]


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", "[" * 3000, '["cut', "\udcff"])
def test_a_broken_cache_is_ignored(tmp_path: Path, text: str):
    path = tmp_path / "peers.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert peer_cache.load(path) == []


def test_no_more_members_than_needed_are_kept(tmp_path: Path):
    path = tmp_path / "peers.json"
    peer_cache.save(path, [str(n) for n in range(1000)])
    assert len(peer_cache.load(path)) == peer_cache.MAX_MEMBERS


def test_a_disk_that_refuses_is_no_error(tmp_path: Path):
    (tmp_path / "file").touch()
    peer_cache.save(tmp_path / "file" / "peers.json", ["a"])
