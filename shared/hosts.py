"""Which part of the network a host name or address is in. Pure: names are not looked up."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal
from urllib.parse import urlsplit

Realm = Literal["loopback", "private", "public"]
"""This machine, a network of its owner's, or the world."""
Reach = Literal["auto", "loopback", "private", "public"]
Tls = Literal["auto", "on", "off"]
_REALMS: tuple[Realm, ...] = ("loopback", "private", "public")


def reach_of(reach: Reach, members: Iterable[str]) -> Realm:
    """The narrowest realm whose addresses are dialled by one who joins through these multiaddrs.

    By `auto` it is the widest that any of them is in: in a public swarm, nobody's word should have
    us knock at the doors of our own network. Names say nothing.
    """
    if reach != "auto":
        return reach
    parts = [member.split("/") for member in members]
    realms: list[Realm] = [realm_of(part[2]) for part in parts if part[1:2] in (["ip4"], ["ip6"])]
    return _REALMS[max(map(_REALMS.index, realms), default=0)]


def is_alone(host: str, members: Iterable[str]) -> bool:
    """Whether one who listens there and joins through these multiaddrs meets this machine only."""
    hosts = [host, *(member.split("/")[2] for member in members)]
    return all(map(is_loopback, hosts))


def is_within(reach: Realm, host: str) -> bool:
    """Whether an address may be dialled by one of this reach."""
    return _REALMS.index(realm_of(host)) >= _REALMS.index(reach)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    return realm_of(host) == "loopback"


def takes_tls(tls: Tls, host: str, url: str) -> bool:
    """Whether links to who listens on a host are under TLS that this process itself speaks.

    A `url` given by hand says who does it: a proxy for wss://, nobody for ws://.
    """
    return tls == "on" or (tls == "auto" and not (url or is_loopback(host)))


def in_url(host: str) -> str:
    """A host as it stands before the port: addresses of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def realm_of(host: str) -> Realm:
    """Where a host is. A name counts as public, unless it is localhost."""
    name = host.strip("[]").partition("%")[0].rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return "loopback"
    try:
        address = ip_address(name)
    except ValueError:
        return "public"
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return _realm_of(address)


def realm_of_url(url: str) -> Realm:
    """Where the host of a URL is."""
    return realm_of(urlsplit(url).hostname or "")


def _realm_of(address: IPv4Address | IPv6Address) -> Realm:
    if address.is_loopback:
        return "loopback"
    # carrier-grade NAT, 100.64.0.0/10, is neither global nor private
    return "public" if address.is_global and not address.is_multicast else "private"
