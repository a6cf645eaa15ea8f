# pyright: reportMissingTypeStubs=false
"""Multiaddrs as operators write them: parse, check, and what to advertise.

`/ip4/1.2.3.4/tcp/4001/p2p/12D3KooW…`: see https://github.com/multiformats/multiaddr.
"""

import socket
from collections.abc import Iterable
from ipaddress import ip_address

import structlog
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from shared.discovery.interfaces import address_on_a_network
from shared.errors import ConfigError
from shared.hosts import in_url, is_loopback
from shared.ports import check_port

log = structlog.get_logger()

WILDCARDS = {"ip4": "0.0.0.0", "ip6": "::"}
LOOPBACKS = {"ip4": "127.0.0.1", "ip6": "::1"}
_NOWHERE = {"ip4": "192.0.2.1", "ip6": "2001:db8::1"}
"""Documentation addresses (RFC 5737, RFC 3849): routed like any public one, never answered."""


def tcp_address(host: str, port: int) -> str:
    """The multiaddr of a host name or IP address and a TCP port."""
    try:
        kind = f"ip{ip_address(host).version}"
    except ValueError:
        kind = "dns4"
    return f"/{kind}/{host}/tcp/{port}"


def parse_address(text: str) -> Multiaddr:
    """A multiaddr that starts with a host and a TCP port. Raises ConfigError."""
    try:
        address = Multiaddr(text)
        names = [protocol.name for protocol in address.protocols()]
    except (MultiaddrError, ValueError, LookupError) as error:
        raise ConfigError(f"{text!r} is not a multiaddr such as /ip4/1.2.3.4/tcp/4001") from error
    if names[:1] not in (["ip4"], ["ip6"], ["dns4"], ["dns6"], ["dns"]) or names[1:2] != ["tcp"]:
        raise ConfigError(f"multiaddr {text!r} is not of the form /ip4/HOST/tcp/PORT")
    return address


def parse_member(text: str) -> PeerInfo:
    """A member of the swarm: a multiaddr that ends in `/p2p/PEER`. Raises ConfigError."""
    address = parse_address(text)
    try:
        return info_from_p2p_addr(address)
    except (MultiaddrError, ValueError) as error:
        raise ConfigError(
            f"{text!r} names no peer; a node to join is written /ip4/HOST/tcp/PORT/p2p/PEER"
        ) from error


def member_address(member: PeerInfo) -> str:
    """The full multiaddr of a member, by the first address it has.

    Addresses that peers tell of each other may or may not end in the peer's id already.
    """
    return f"{str(member.addrs[0]).partition('/p2p/')[0]}/p2p/{member.peer_id}"


def check_can_listen(address: Multiaddr) -> None:
    """Raises ConfigError when another program has the port, or it cannot be ours."""
    check_port(*_endpoint(address))


def advertised(bound: Iterable[Multiaddr], announced: Iterable[Multiaddr]) -> list[Multiaddr]:
    """What to tell others: `announced` if any, else `bound` with wildcards made concrete.

    Port 0 in an announced address stands for the port we are bound to.
    """
    bound = list(bound)
    port = next((value_of(address, "tcp") for address in bound), "0")
    given = [Multiaddr(str(a).replace("/tcp/0", f"/tcp/{port}", 1)) for a in announced]
    return given or [_made_concrete(address) for address in bound]


def value_of(address: Multiaddr, protocol: str) -> str:
    """The value of a protocol that the address has, e.g. its `tcp` port."""
    return str(address.value_for_protocol(protocol))


def reachable_host(host: str) -> str:
    """A host to listen on as others may dial it: wildcards become this machine's own address."""
    kind = next((kind for kind, wildcard in WILDCARDS.items() if wildcard == host), None)
    return own_address(kind) if kind else host


def reachable_url(host: str, port: int, *, has_tls: bool) -> str:
    """Where others may dial a WebSocket server that listens on a host."""
    return f"{'wss' if has_tls else 'ws'}://{in_url(reachable_host(host))}:{port}"


def warn_if_undiallable(host: str, option: str) -> None:
    """Tell an operator whose machine is on no network that nobody else can dial a wildcard there.

    `option` is what names another address.
    """
    if host in WILDCARDS.values() and is_loopback(own := reachable_host(host)):
        log.warning(
            "no_network",
            effect=f"nobody else can dial what listens on {host}: {own} is announced",
            remedy=f"name the address others see with {option}, or connect and start again",
        )


def _made_concrete(address: Multiaddr) -> Multiaddr:
    for kind, wildcard in WILDCARDS.items():
        prefix = f"/{kind}/{wildcard}/"
        if str(address).startswith(prefix):
            rest = str(address).removeprefix(prefix)
            return Multiaddr(f"/{kind}/{own_address(kind)}/{rest}")
    return address


def own_address(kind: str) -> str:
    """The address this machine would reach the world from, else one on any network it is on.

    Without any it is loopback's. Sends nothing.
    """
    family = socket.AF_INET if kind == "ip4" else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_NOWHERE[kind], 9))
            return str(probe.getsockname()[0])
        except OSError:
            return address_on_a_network(kind) or LOOPBACKS[kind]


def _endpoint(address: Multiaddr) -> tuple[str, int]:
    kind = next(iter(address.protocols())).name
    if kind not in WILDCARDS:
        raise ConfigError(f"cannot listen on {address}: give an IP address, not a name")
    return value_of(address, kind), int(value_of(address, "tcp"))
