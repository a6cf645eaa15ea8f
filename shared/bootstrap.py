"""A stand-alone node of the swarm's DHT, which newcomers find the others through."""

import asyncio
import signal
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from shared import logs
from shared.commands import Addresses, FilePath, OptionalPath, parse, settings_config
from shared.discovery.kademlia import KademliaDirectory
from shared.discovery.multiaddrs import tcp_address, warn_if_undiallable
from shared.identity import Identity
from shared.logs import LogFormat, LogLevel

EPILOG = """\
examples:
  brigade bootstrap                                     for a swarm on this machine
  brigade bootstrap --host 0.0.0.0                      for everybody who can reach port 4001
  brigade bootstrap --host 0.0.0.0 --public-address swarm.example.org
"""


class BootstrapSettings(BaseSettings):
    """Run a node that newcomers find the swarm through. It hosts no model."""

    model_config = settings_config("BOOTSTRAP_")

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="IP address to listen on; 0.0.0.0 opens it to other machines",
    )
    port: int = Field(4001, ge=0, le=65535, description="TCP port to listen on; 0 = any free")
    public_address: str = Field(
        "",
        description="name, IP address or multiaddr that others reach it at; empty = HOST",
    )
    join: Addresses = Field([], description="other nodes of the swarm; may be repeated")
    identity: FilePath = Field(
        Path("~/.bucket-brigade/bootstrap.key"),
        validate_default=True,
        description="file of the private key; made on first use",
    )
    peer_cache: OptionalPath = Field(
        None, description="file of known nodes, so that a restart finds the swarm again"
    )
    log_level: LogLevel = Field("info", description="least urgent events to log")
    log_format: LogFormat = Field("console", description="for people or for machines")


def main(argv: list[str]) -> int:
    """Run a bootstrap node until it is told to stop; returns the exit status."""
    settings = parse(BootstrapSettings, argv, prog="brigade bootstrap", epilog=EPILOG)
    logs.set_up(settings.log_level, settings.log_format)
    asyncio.run(serve(settings))
    return 0


async def serve(settings: BootstrapSettings) -> None:
    """Be a server of the DHT until SIGINT or SIGTERM. Raises ConfigError."""
    directory = KademliaDirectory(
        Identity.claim(settings.identity),
        listen=tcp_address(settings.host, settings.port),
        join=settings.join,
        announce_addresses=announced(settings),
        peer_cache=settings.peer_cache,
    )
    told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    if not settings.public_address:
        warn_if_undiallable(settings.host, "--public-address")
    await directory.start()
    try:
        address = directory.multiaddrs[0]
        print(f"bootstrap ready: {address}", flush=True)
        print(f"others join with --join {address}", flush=True)
        await told_to_stop.wait()
    finally:
        await directory.stop()


def announced(settings: BootstrapSettings) -> list[str]:
    """The multiaddrs to tell others, if the operator named any address."""
    address = settings.public_address
    if not address or address.startswith("/"):
        return [address] if address else []
    return [tcp_address(address, settings.port)]
