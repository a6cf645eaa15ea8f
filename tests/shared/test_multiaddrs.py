"""Addresses are checked where an operator writes them, with a sentence about what is wrong."""

import socket
from pathlib import Path

import ifaddr
import pytest
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr
from structlog.testing import capture_logs

from shared.discovery import interfaces, multiaddrs
from shared.discovery.interfaces import likely_addresses
from shared.discovery.multiaddrs import (
    advertised,
    check_can_listen,
    member_address,
    parse_address,
    parse_member,
    reachable_url,
    tcp_address,
    warn_if_undiallable,
)
from shared.errors import ConfigError
from tests.shared.announcing import ANN

MEMBER = f"/ip4/192.0.2.7/tcp/4001/p2p/{ANN.peer}"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "/ip4/192.0.2.7/tcp/4001"),
        ("::1", "/ip6/::1/tcp/4001"),
        ("swarm.example.org", "/dns4/swarm.example.org/tcp/4001"),
    ],
)
def test_a_host_and_a_port_make_an_address(host: str, address: str):
    assert tcp_address(host, 4001) == address
    assert str(parse_address(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "localhost:4001", "/", "/ip4/1.2.3/tcp/1", "/ip4/1.2.3.4/udp/1", "/ip4/1.2.3.4/tcp/70000"],
)
def test_what_is_no_address_is_quoted(text: str):
    with pytest.raises(ConfigError, match=r"multiaddr|of the form"):
        parse_address(text)


def test_a_member_is_an_address_with_a_peer():
    member = parse_member(MEMBER)
    assert member_address(member) == MEMBER
    assert member_address(PeerInfo(member.peer_id, [Multiaddr(MEMBER)])) == MEMBER


@pytest.mark.parametrize("text", ["/ip4/192.0.2.7/tcp/4001", "/ip4/192.0.2.7/tcp/4001/p2p/bob"])
def test_an_address_without_a_peer_is_no_member(text: str):
    with pytest.raises(ConfigError, match=r"names no peer|not a multiaddr"):
        parse_member(text)


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .* is taken"):
            check_can_listen(parse_address(f"/ip4/127.0.0.1/tcp/{port}"))
    check_can_listen(parse_address(f"/ip4/127.0.0.1/tcp/{port}"))


@pytest.mark.parametrize("host", ["/ip4/192.0.2.7", "/dns4/localhost"])
def test_an_address_that_is_not_ours_cannot_be_listened_on(host: str):
    with pytest.raises(ConfigError, match="cannot listen on"):
        check_can_listen(parse_address(f"{host}/tcp/0"))


def test_a_wildcard_is_advertised_as_an_address_others_may_dial():
    (address,) = advertised([Multiaddr("/ip4/0.0.0.0/tcp/4001")], [])
    assert str(address).endswith("/tcp/4001")
    assert "0.0.0.0" not in str(address)


def test_announced_addresses_win_and_port_zero_is_the_bound_one():
    bound = [Multiaddr("/ip4/127.0.0.1/tcp/4001")]
    announced = [Multiaddr("/dns4/a.example/tcp/0"), Multiaddr("/ip4/192.0.2.7/tcp/443")]
    assert [str(a) for a in advertised(bound, announced)] == [
        "/dns4/a.example/tcp/4001",
        "/ip4/192.0.2.7/tcp/443",
    ]
    assert advertised(bound, []) == bound


def adapter(name: str, *addresses: str) -> ifaddr.Adapter:
    ips = [
        ifaddr.IP((one, 0, 0) if ":" in one else one, network_prefix=24, nice_name=name)
        for one in addresses
    ]
    return ifaddr.Adapter(name, name, ips)


LO = adapter("lo", "127.0.0.1", "::1")
DOCKER = adapter("docker0", "172.17.0.1")
ETH = adapter("eth0", "169.254.3.4", "10.0.0.7", "fd00::7", "fe80::7")


def on(monkeypatch: pytest.MonkeyPatch, *adapters: ifaddr.Adapter) -> None:
    """A machine with these and no route to the world: nothing is sent to a broadcast address."""
    monkeypatch.setitem(multiaddrs._NOWHERE, "ip4", "255.255.255.255")
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)


def test_without_a_route_to_the_world_a_wildcard_is_an_address_of_a_network(
    monkeypatch: pytest.MonkeyPatch,
):
    on(monkeypatch, LO, ETH)
    assert reachable_url("0.0.0.0", 7000, has_tls=False) == "ws://10.0.0.7:7000"
    with capture_logs() as logs:
        warn_if_undiallable("0.0.0.0", "--public-url")
    assert logs == []


def test_on_no_network_at_all_an_operator_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch):
    on(monkeypatch, LO)
    assert reachable_url("0.0.0.0", 7000, has_tls=False) == "ws://127.0.0.1:7000"
    with capture_logs() as logs:
        warn_if_undiallable("127.0.0.1", "--public-url")  # who says loopback means it
        warn_if_undiallable("0.0.0.0", "--public-url")
    assert [(one["event"], "--public-url" in one["remedy"]) for one in logs] == [
        ("no_network", True)
    ]


def test_public_addresses_are_likeliest_and_bridges_least():
    dsl = adapter("ppp0", "8.8.8.8")
    found = likely_addresses([DOCKER, LO, ETH, dsl], "ip4", bridges=["docker0"])
    assert found == ["8.8.8.8", "10.0.0.7", "172.17.0.1"]
    assert likely_addresses([LO, ETH], "ip6") == ["fd00::7"]


def test_an_interface_that_is_down_has_no_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(interfaces, "SYSTEM", tmp_path)
    (tmp_path / "eth0").mkdir()
    (tmp_path / "eth0" / "operstate").write_text("down\n")
    on(monkeypatch, LO, ETH)
    assert interfaces.address_on_a_network("ip4") is None
