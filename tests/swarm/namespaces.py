"""Hosts on one wire: network namespaces of this machine, each with a link to one bridge.

Some may be behind NAT: a router of their own has the link, and hides them.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Collection
from types import TracebackType
from typing import Self

PREFIX = "bb"
"""Interfaces have short names, see IFNAMSIZ: the process's number follows, and the host's."""


class NoNamespaces(Exception):
    """Why there can be none here."""


class Hosts:
    """Some hosts, made when entered and unmade when left."""

    def __init__(self, num_hosts: int, *, behind_nat: Collection[int] = ()) -> None:
        self.numbers = range(num_hosts)
        self._behind_nat = behind_nat
        self._tag = f"{PREFIX}{os.getpid()}"
        self._subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self.address_outside = f"{self._subnet}.254"

    def __enter__(self) -> Self:
        """Raises NoNamespaces."""
        if os.getuid() != 0 or not shutil.which("ip") or not shutil.which("bridge"):
            raise NoNamespaces("only root can make network namespaces, with iproute2")
        if self._behind_nat and not (shutil.which("nft") or shutil.which("iptables")):
            raise NoNamespaces("NAT needs nftables or iptables")
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self._unmake()
            raise NoNamespaces(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._unmake()

    def namespace(self, host: int) -> str:
        """The name of a host's namespace."""
        return f"{self._tag}-{host}"

    def address(self, host: int) -> str:
        """A host's address as others see it; behind NAT it is the router's."""
        return f"{self._subnet}.{host + 1}"

    def part(self, *hosts: int) -> None:
        """None of these hosts reaches another of them; nobody is told, and others reach all."""
        for host in hosts:
            _run(f"bridge link set dev {self._port(host)} isolated on")

    def lose(self, percent: int) -> None:
        """Of the packets that come to any host, so many are lost. Raises NoNamespaces."""
        if not shutil.which("nft"):
            raise NoNamespaces("to lose packets needs nftables")
        for host in self.numbers:
            inside = f"ip netns exec {self.namespace(host)}"
            _run(f"{inside} nft add table ip loss")
            _run(f"{inside} nft add chain ip loss in {{ type filter hook input priority 0 ; }}")
            _run(f"{inside} nft add rule ip loss in numgen random mod 100 < {percent} drop")

    def heal(self) -> None:
        """Every host reaches every other, and all packets arrive."""
        for host in self.numbers:
            _run(f"bridge link set dev {self._port(host)} isolated off")
            if shutil.which("nft"):
                inside = f"ip netns exec {self.namespace(host)}"
                _run(f"{inside} nft add table ip loss")  # deleting what is not there is an error
                _run(f"{inside} nft delete table ip loss")

    def unplug(self, host: int) -> None:
        """A host reaches nobody, until it is plugged in again."""
        _run(f"ip link set {self._port(host)} down")

    def plug_in(self, host: int) -> None:
        """A host has its link back."""
        _run(f"ip link set {self._port(host)} up")

    def _port(self, host: int) -> str:
        return f"{self._tag}p{host}"

    def _make(self) -> None:
        _run(f"ip link add {self._tag} type bridge")
        _run(f"ip addr add {self.address_outside}/24 dev {self._tag}")
        _run(f"ip link set {self._tag} up")
        for host in self.numbers:
            _run(f"ip netns add {self.namespace(host)}")
            if host in self._behind_nat:
                _run(f"ip netns add {self._router(host)}")
                self._plug_in(self._router(host), host)
                self._hide(host)
            else:
                self._plug_in(self.namespace(host), host)

    def _router(self, host: int) -> str:
        return f"{self._tag}-r{host}"

    def _plug_in(self, name: str, host: int) -> None:
        """Give a namespace the host's link to the bridge, and its address."""
        port = self._port(host)
        _run(f"ip link add {port} type veth peer name eth0 netns {name}")
        _run(f"ip link set {port} master {self._tag} up")
        _run(f"ip -n {name} link set lo up")
        _run(f"ip -n {name} addr add {self.address(host)}/24 dev eth0")
        _run(f"ip -n {name} link set eth0 up")

    def _hide(self, host: int) -> None:
        """Put a host behind its router, which lends it its address for what it begins itself."""
        name, router, lan = self.namespace(host), self._router(host), f"192.168.{host}"
        _run(f"ip -n {router} link add lan type veth peer name eth0 netns {name}")
        _run(f"ip -n {router} addr add {lan}.1/24 dev lan")
        _run(f"ip -n {router} link set lan up")
        _run(f"ip -n {name} link set lo up")
        _run(f"ip -n {name} addr add {lan}.2/24 dev eth0")
        _run(f"ip -n {name} link set eth0 up")
        _run(f"ip -n {name} route add default via {lan}.1")
        inside = f"ip netns exec {router}"
        _run(f"{inside} sysctl -qw net.ipv4.ip_forward=1")
        if shutil.which("nft"):
            _run(f"{inside} nft add table ip nat")
            chain = "{ type nat hook postrouting priority 100 ; }"
            _run(f"{inside} nft add chain ip nat out {chain}")
            _run(f"{inside} nft add rule ip nat out oifname eth0 masquerade")
        else:
            _run(f"{inside} iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE")

    def _unmake(self) -> None:
        ports = [f"ip link del {self._port(host)}" for host in self.numbers]
        names = [f"ip netns del {self.namespace(host)}" for host in self.numbers]
        routers = [f"ip netns del {self._router(host)}" for host in self._behind_nat]
        for command in itertools.chain(ports, names, routers, [f"ip link del {self._tag}"]):
            subprocess.run(command.split(), capture_output=True, check=False)


def _run(command: str) -> None:
    subprocess.run(command.split(), capture_output=True, check=True, text=True)
