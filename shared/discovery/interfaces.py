"""Which addresses this machine has on the networks it is part of."""

from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

import ifaddr

SYSTEM = Path("/sys/class/net")
"""See https://docs.kernel.org/networking/operstates.html; an interface may be missing there."""


def address_on_a_network(kind: str) -> str | None:
    """The `ip4` or `ip6` address most others can likely dial; None on a machine with no network.

    Also None where a sandbox does not let us look.
    """
    try:
        adapters = [one for one in ifaddr.get_adapters() if not _is_down(one.name)]
    except OSError:
        return None
    return next(iter(likely_addresses(adapters, kind, bridges=_bridges(adapters))), None)


def likely_addresses(
    adapters: Iterable[ifaddr.Adapter], kind: str, *, bridges: Iterable[str] = ()
) -> list[str]:
    """The addresses that others may dial: public ones first, those on `bridges` last.

    What is behind a bridge is as a rule on this machine: its containers and virtual machines.
    """
    found = [
        (not address.is_global, adapter.name in bridges, str(address))
        for adapter in adapters
        for ip in adapter.ips
        if ip.is_IPv4 == (kind == "ip4")
        for address in [ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0].partition("%")[0])]
        if not (address.is_loopback or address.is_link_local or address.is_multicast)
    ]
    return [text for *_, text in sorted(found, key=lambda one: one[:2])]


def _is_down(name: str) -> bool:
    try:
        return (SYSTEM / name / "operstate").read_text().strip() == "down"
    except OSError:
        return False


def _bridges(adapters: Iterable[ifaddr.Adapter]) -> list[str]:
    return [one.name for one in adapters if (SYSTEM / one.name / "bridge").exists()]
