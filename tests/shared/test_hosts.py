"""Which part of the network an address is in."""

import pytest

from shared.hosts import Reach, Realm, is_alone, is_within, reach_of, realm_of, realm_of_url


@pytest.mark.parametrize(
    ("host", "realm"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.9.10", "loopback"),
        ("::1", "loopback"),
        ("[::1]", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("localhost", "loopback"),
        ("me.localhost.", "loopback"),
        ("10.0.0.1", "private"),
        ("192.168.1.1", "private"),
        ("169.254.169.254", "private"),
        ("100.64.0.1", "private"),
        ("fe80::1%eth0", "private"),
        ("fd00::1", "private"),
        ("::ffff:10.0.0.1", "private"),
        ("0.0.0.0", "private"),
        ("::", "private"),
        ("224.0.0.1", "private"),
        ("8.8.8.8", "public"),
        ("2606:4700::1111", "public"),
        ("swarm.example.org", "public"),
    ],
)
def test_an_address_is_loopback_private_or_public(host: str, realm: Realm):
    assert realm_of(host) == realm


def test_a_url_is_where_its_host_is():
    assert realm_of_url("wss://[::1]:7000/x") == "loopback"
    assert realm_of_url("ws://10.0.0.1") == "private"


@pytest.mark.parametrize(
    ("reach", "join", "expected"),
    [
        ("auto", [], "loopback"),
        ("auto", ["/ip4/127.0.0.1/tcp/1/p2p/x"], "loopback"),
        ("auto", ["/ip4/127.0.0.1/tcp/1/p2p/x", "/ip4/10.0.0.1/tcp/1/p2p/x"], "private"),
        ("auto", ["/ip4/8.8.8.8/tcp/1/p2p/x", "/ip4/10.0.0.1/tcp/1/p2p/x"], "public"),
        ("auto", ["/ip6/2606:4700::1/tcp/1/p2p/x"], "public"),
        ("auto", ["/dns4/bootstrap/tcp/1/p2p/x"], "loopback"),
        ("private", ["/ip4/8.8.8.8/tcp/1/p2p/x"], "private"),
    ],
)
def test_in_a_public_swarm_only_public_addresses_are_dialled(
    reach: Reach, join: list[str], expected: Realm
):
    assert reach_of(reach, join) == expected


def test_a_wider_address_may_always_be_dialled():
    hosts = ("127.0.0.1", "10.0.0.1", "8.8.8.8")
    assert [is_within("public", host) for host in hosts] == [False, False, True]
    assert [is_within("private", host) for host in hosts] == [False, True, True]
    assert [is_within("loopback", host) for host in hosts] == [True, True, True]


@pytest.mark.parametrize(
    ("host", "members", "alone"),
    [
        ("127.0.0.1", (), True),
        ("127.0.0.1", ("/ip4/127.0.0.1/tcp/4001/p2p/x",), True),
        ("127.0.0.1", ("/ip4/127.0.0.1/tcp/4001/p2p/x", "/ip4/8.8.8.8/tcp/4001/p2p/x"), False),
        ("127.0.0.1", ("/dns4/swarm.example.org/tcp/4001/p2p/x",), False),
        ("0.0.0.0", (), False),
    ],
)
def test_who_listens_and_joins_on_loopback_meets_this_machine_only(
    host: str, members: tuple[str, ...], alone: bool
):
    assert is_alone(host, members) is alone
