"""Which part of the network an address is in."""

import pytest

from shared.hosts import Realm, realm_of, realm_of_url


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
