"""Whether a port can be listened on."""

import socket

import pytest

from shared.errors import ConfigError
from shared.ports import check_port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_free_port_and_any_port_will_do(host: str):
    check_port(host, 0)


def test_a_taken_port_is_named_with_the_remedy():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .* is taken .* or 0 for any"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_a_host_that_is_not_ours_is_named(host: str):
    with pytest.raises(ConfigError, match=f"cannot listen on {host}"):
        check_port(host, 0)
