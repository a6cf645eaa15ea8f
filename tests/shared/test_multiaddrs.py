"""Addresses are checked where an operator writes them, with a sentence about what is wrong."""

import socket

import pytest
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from shared.discovery.multiaddrs import (
    advertised,
    check_can_listen,
    member_address,
    parse_address,
    parse_member,
    tcp_address,
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
