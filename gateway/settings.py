"""What an operator may set on a gateway."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode

from gateway.keys import Key, parse_variable
from gateway.markup.dialect import ToolFormat
from shared.commands import Addresses, FilePath, Names, OptionalPath, Peers, settings_config
from shared.hosts import Reach, Tls, takes_tls
from shared.logs import LogFormat, LogLevel
from shared.wire.messages import WireDtype

GIB = 1 << 30


def _keys(value: object) -> object:
    return parse_variable(value) if isinstance(value, str) else value


class GatewaySettings(BaseSettings):
    """Serve models to OpenAI clients, computed by the workers of a swarm."""

    model_config = settings_config("GATEWAY_")

    model: Names = Field(
        [], description="model directory or OWNER/NAME[@REVISION]; may be repeated; empty = bundled"
    )
    model_name: Names = Field(
        [], description="name clients ask for, one for each model; empty = the directory's name"
    )
    tool_format: ToolFormat | None = Field(
        None,
        description="how the models write calls of tools; empty = as each one's template tells",
    )
    model_aliases: Names = Field(
        [], description="further names, each as ALIAS=NAME; may be repeated"
    )
    host: str = Field("127.0.0.1", min_length=1, description="address HTTP is served on")
    port: int = Field(8000, ge=0, le=65535, description="port HTTP is served on; 0 = any free")
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
        Path("~/.bucket-brigade/gateway.key"),
        validate_default=True,
        description="file of the private key; made on first use",
    )
    peer_cache: OptionalPath = Field(
        None, description="file of known nodes, so that a restart needs no bootstrap node"
    )
    keys_file: OptionalPath = Field(
        None,
        description="file of API keys, see `brigade keys`; changes count at once; empty = none",
    )
    keys: Annotated[list[Key], NoDecode, BeforeValidator(_keys)] = Field(
        [],
        repr=False,
        description="more API keys, each as NAME=sha256:HEX or as a JSON list; without any keys "
        "everybody may come in",
    )
    open_metrics: bool = Field(True, description="whether /metrics needs no API key")
    cors_origins: Names = Field(
        ["*"], description="web origins whose pages may call the API; may be repeated"
    )
    max_streams: int = Field(64, ge=1, description="generations that run at a time")
    max_queue: int = Field(
        256, ge=0, description="generations that may wait for a place at a model; then 503"
    )
    max_queue_per_key: int = Field(
        64, ge=0, description="generations that may wait for one API key; then 429"
    )
    step_timeout_seconds: float = Field(
        60.0, gt=0, description="silence after which a worker counts as lost"
    )
    recovery_timeout_seconds: float = Field(
        60.0, gt=0, description="how long a stream waits for a replacement before it fails"
    )
    checkpoint_bytes: int = Field(
        GIB, ge=0, description="memory for checkpoints; 0 = always rebuild from token ids"
    )
    checkpoint_spill_dir: OptionalPath = Field(
        None,
        description="directory on a fast disk for checkpoints that memory has no room for; empty "
        "= none",
    )
    checkpoint_spill_bytes: int = Field(
        16 * GIB, ge=0, description="room there for checkpoints, in files of 16 MiB without a name"
    )
    states_bytes: int = Field(
        256 << 20,
        ge=1 << 20,
        description="memory for hidden states, logits and embeddings on their way to clients, "
        "each answer a quarter at most",
    )
    prefill_chunk_tokens: int = Field(
        512, ge=1, le=8192, description="most tokens of a prompt that one step carries"
    )
    guess_tokens: int = Field(
        0, ge=0, le=64, description="tokens guessed ahead by prompt lookup in each step; 0 = none"
    )
    wire: WireDtype = Field(
        "model",
        description="how hidden states travel: in the model's dtype, or as int8 at half the size",
    )
    standby: bool = Field(
        False, description="feed each span of a stream to a second worker too, for instant failover"
    )
    trusted_peers: Peers = Field(
        [],
        description="workers that may have the first and the last span, which see tokens; "
        "may be repeated; empty = all",
    )
    drain_seconds: float = Field(
        3.0,
        ge=0,
        le=600,
        description="how long requests are still taken after SIGTERM, while /ready says 503; "
        "streams then have 20 s to end",
    )
    resume_store: str = Field(
        "",
        description="redis:// or valkey:// URL that replicas keep resumable answers in; empty = "
        "memory",
    )
    resume_seconds: float = Field(
        3600.0,
        ge=60,
        le=7 * 86400,
        description="how long an answer can be come back for, and its Idempotency-Key holds",
    )
    resume_bytes: int = Field(
        256 << 20, ge=1 << 20, description="memory for resumable answers without a resume store"
    )
    response_seconds: float = Field(
        86400.0,
        ge=0,
        le=30 * 86400,
        description="how long what /v1/responses answers is kept to be gone on from; 0 = not",
    )
    response_bytes: int = Field(
        64 << 20, ge=1 << 20, description="memory for such responses without a resume store"
    )
    attach_host: str = Field(
        "",
        description="address where workers attach that nobody can dial, e.g. behind NAT; it must "
        "be reachable for them; empty = they cannot",
    )
    attach_port: int = Field(
        4002, ge=0, le=65535, description="port where they attach; 0 = any free"
    )
    attach_url: str = Field(
        "",
        pattern=r"^(wss?://.+)?$",
        description="ws:// or wss:// address to announce for it; empty = ATTACH_HOST and "
        "ATTACH_PORT as they are",
    )
    attach_tls: Tls = Field(
        "auto",
        description="encrypt their links here; auto = unless ATTACH_HOST is loopback or ATTACH_URL "
        "is given",
    )
    dht_port: int = Field(0, ge=0, le=65535, description="TCP port of discovery; 0 = any free")
    log_level: LogLevel = Field("info", description="least urgent events to log")
    log_format: LogFormat = Field("console", description="for people or for machines")
    state_file: OptionalPath = Field(
        None, description="file that gets pid, url and peer id as JSON once ready"
    )

    @property
    def takes_tls(self) -> bool:
        """Whether workers attach under TLS that this process itself speaks."""
        return takes_tls(self.attach_tls, self.attach_host, self.attach_url)
