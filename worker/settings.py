"""What a volunteer may set on a worker."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from shared.commands import Addresses, FilePath, OptionalPath, settings_config
from shared.hosts import Reach, Tls, takes_tls
from shared.logs import LogFormat, LogLevel
from shared.swarm import MAX_ATTACHED, MAX_BLOCKS
from worker.reachability import Attach

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
Quant = Literal["none", "int8", "nf4"]


class WorkerSettings(BaseSettings):
    """Lend this machine to a swarm: host a span of a model's blocks."""

    model_config = settings_config("WORKER_")

    model: str = Field(
        "",
        description="directory or OWNER/NAME[@REVISION]; empty = one JOIN's swarm has, or bundled",
    )
    model_name: str = Field("", description="name it is served under; empty = the directory's name")
    blocks: str = Field(
        "",
        pattern=r"^(\d+:\d+|all)?$",
        description="span to host as START:END, e.g. 0:8, or all; empty = what the swarm needs",
    )
    max_blocks: int = Field(
        0, ge=0, le=MAX_BLOCKS, description="most blocks to choose by itself; 0 = what fits"
    )
    settle_seconds: float = Field(
        6.0, gt=0, le=600, description="how long a choice is known to others before it is acted on"
    )
    move_check_seconds: float = Field(
        60.0, ge=0, description="time between two looks for blocks that need it more; 0 = stay"
    )
    host: str = Field("127.0.0.1", min_length=1, description="address links are taken on")
    port: int = Field(0, ge=0, le=65535, description="port links are taken on; 0 = any free")
    public_url: str = Field(
        "",
        pattern=r"^(wss?://.+)?$",
        description="ws:// or wss:// address to announce; empty = HOST and PORT as they are",
    )
    tls: Tls = Field(
        "auto",
        description="encrypt links here; auto = unless HOST is loopback or PUBLIC_URL is given",
    )
    attach: Attach = Field(
        "auto",
        description="hold links to gateways and announce no address; auto = if gateways dial this "
        "worker in vain, e.g. behind NAT",
    )
    attach_gateways: int = Field(
        3, ge=1, le=MAX_ATTACHED, description="gateways to be attached to at a time"
    )
    dht_port: int = Field(0, ge=0, le=65535, description="TCP port of discovery; 0 = any free")
    join: Addresses = Field([], description="known nodes of the swarm; may be repeated")
    swarm: str = Field("local", min_length=1, max_length=128, description="the swarm's name")
    reach: Reach = Field(
        "auto",
        description="narrowest network whose workers are dialled; auto = that of JOIN",
    )
    swarm_secret_file: OptionalPath = Field(
        None, description="file of a private swarm's secret; empty = BRIGADE_SWARM_SECRET, if any"
    )
    identity: FilePath = Field(
        Path("~/.bucket-brigade/worker.key"),
        validate_default=True,
        description="file of the private key; made on first use",
    )
    dtype: Dtype = Field("auto", description="number format to compute in; auto = the model's own")
    device: Device = Field("auto", description="where to compute; auto = CUDA when there is any")
    quant: Quant = Field(
        "none", description="bitsandbytes weights, to save memory; int8 is very slow on CPU"
    )
    threads: int = Field(0, ge=0, description="CPU threads to compute with; 0 = all cores")
    max_sessions: int = Field(256, ge=1, description="generations hosted at a time")
    kv_tokens: int = Field(
        0, ge=0, description="tokens the attention cache holds in all; 0 = from free memory"
    )
    max_step_tokens: int = Field(
        512, ge=1, description="most tokens of prompts computed in one batch; decodes come on top"
    )
    session_lease_seconds: float = Field(
        300.0, gt=0, description="idle time after which a session's memory is freed"
    )
    announce_period_seconds: float = Field(
        4.0, gt=0, description="time between two announcements to the swarm"
    )
    lease_seconds: float = Field(
        12.0, gt=0, le=120, description="how long one announcement is believed"
    )
    grace_seconds: float = Field(
        30.0, ge=0, description="how long a leaving worker serves on while its sessions move"
    )
    log_level: LogLevel = Field("info", description="least urgent events to log")
    log_format: LogFormat = Field("console", description="for people or for machines")
    state_file: OptionalPath = Field(
        None, description="file that gets pid, peer id, span and url as JSON once ready"
    )

    @property
    def takes_tls(self) -> bool:
        """Whether links here are under TLS that this process itself speaks."""
        return takes_tls(self.tls, self.host, self.public_url)
