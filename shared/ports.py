"""Whether a port of this machine can be listened on, asked before anything long begins."""

import errno
import os
import socket

from shared.errors import ConfigError


def check_port(host: str, port: int) -> None:
    """Raises ConfigError when another program has the port, or it cannot be ours."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(_why_not(host, port, error)) from error


def _why_not(host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"port {port} on {host} is taken by another program; choose another, or 0 for any"
            )
        case errno.EACCES:
            return f"port {port} on {host} needs privileges; choose one above 1023"
        case number:
            known = os.strerror(number) if number and number > 0 else error.strerror
            return f"cannot listen on {host} port {port}: {known or error}"
