"""TLS is spoken where links come from other machines, unless an address says that somebody else
does it."""

import pytest

from worker.settings import WorkerSettings


@pytest.mark.parametrize(
    ("given", "takes_tls"),
    [
        ({}, False),
        ({"host": "127.0.0.1"}, False),
        ({"host": "localhost"}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "192.168.1.5"}, True),
        ({"host": "0.0.0.0", "public_url": "wss://proxy.example.org"}, False),
        ({"host": "0.0.0.0", "public_url": "ws://host.example.org:7000"}, False),
        ({"host": "0.0.0.0", "tls": "off"}, False),
        ({"host": "127.0.0.1", "tls": "on"}, True),
        ({"tls": "on", "public_url": "wss://host.example.org:7000"}, True),
    ],
    ids=str,
)
def test_tls_is_on_off_loopback(given: dict[str, str], takes_tls: bool):
    assert WorkerSettings(**given).takes_tls == takes_tls  # type: ignore[arg-type]
