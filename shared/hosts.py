"""Which part of the network a host name or address is in. Pure: names are not looked up."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal
from urllib.parse import urlsplit

Realm = Literal["loopback", "private", "public"]
"""This machine, a network of its owner's, or the world."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    return realm_of(host) == "loopback"


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
