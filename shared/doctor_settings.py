"""What `brigade doctor` is told: the options and variables of the command it looks after."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.commands import Addresses, FilePath, Names, OptionalPath, settings_config
from shared.hosts import Tls, takes_tls


class DoctorSettings(BaseSettings):
    """Look for what is wrong with this machine's set-up before, or while, it serves."""

    host: str = Field("127.0.0.1", min_length=1, description="address to be listened on")
    port: int = Field(0, ge=0, le=65535, description="port to be listened on; 0 = any free")
    join: Addresses = Field([], description="known nodes of the swarm; may be repeated")
    swarm: str = Field("local", min_length=1, max_length=128, description="the swarm's name")
    identity: FilePath = Field(Path(), description="file of the private key")
    as_json: bool = Field(False, description="or --json: print JSON in place of lines")


class ServesModels(DoctorSettings):
    """What workers and gateways have in common."""

    model: Names = Field([], description="models to be served; empty = bundled")
    model_name: Names = Field([], description="names they are served under; empty = their own")
    swarm_secret_file: OptionalPath = Field(
        None, description="file of a private swarm's secret; empty = BRIGADE_SWARM_SECRET, if any"
    )


class WorkerDoctor(ServesModels):
    __doc__ = DoctorSettings.__doc__
    model_config = settings_config("WORKER_") | SettingsConfigDict(
        cli_shortcuts={"as-json": "json"}
    )

    identity: FilePath = Field(
        Path("~/.bucket-brigade/worker.key"),
        validate_default=True,
        description="file of the private key",
    )
    public_url: str = Field(
        "",
        pattern=r"^(wss?://.+)?$",
        description="ws:// or wss:// address to be announced; empty = HOST and PORT",
    )
    tls: Tls = Field(
        "auto",
        description="links under TLS; auto = unless HOST is loopback or PUBLIC_URL is given",
    )

    @property
    def takes_tls(self) -> bool:
        """Whether a worker told the same takes links under TLS of its own."""
        return takes_tls(self.tls, self.host, self.public_url)


class GatewayDoctor(ServesModels):
    __doc__ = DoctorSettings.__doc__
    model_config = settings_config("GATEWAY_") | SettingsConfigDict(
        cli_shortcuts={"as-json": "json"}
    )

    port: int = Field(8000, ge=0, le=65535, description="port to be listened on; 0 = any free")
    identity: FilePath = Field(
        Path("~/.bucket-brigade/gateway.key"),
        validate_default=True,
        description="file of the private key",
    )
    resume_store: str = Field("", description="redis:// or valkey:// URL; empty = memory")
    max_streams: int = Field(64, ge=1, description="generations that are to run at a time")


class BootstrapDoctor(DoctorSettings):
    __doc__ = DoctorSettings.__doc__
    model_config = settings_config("BOOTSTRAP_") | SettingsConfigDict(
        cli_shortcuts={"as-json": "json"}
    )

    port: int = Field(4001, ge=0, le=65535, description="port to be listened on; 0 = any free")
    identity: FilePath = Field(
        Path("~/.bucket-brigade/bootstrap.key"),
        validate_default=True,
        description="file of the private key",
    )
    public_address: str = Field("", description="address to be announced; empty = HOST")


ROLES: dict[str, type[DoctorSettings]] = {
    "worker": WorkerDoctor,
    "gateway": GatewayDoctor,
    "bootstrap": BootstrapDoctor,
}
