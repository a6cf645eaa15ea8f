"""What the routes are given: the process's parts, put together once at start."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gateway.admission import Admission
from gateway.admitted import AdmittedGenerator
from gateway.key_ring import KeyRing
from gateway.keys import Caller
from gateway.metrics import GatewayMetrics
from gateway.resume import Archive
from gateway.room import Room
from gateway.served import Models, ServedModel
from gateway.store import MemoryStore, Store

MAX_BODY_BYTES = 8 << 20
ARCHIVE_BYTES = 256 << 20
ARCHIVE_SECONDS = 3600.0
RESPONSE_BYTES = 64 << 20
RESPONSE_SECONDS = 86400.0
STATES_BYTES = 256 << 20


def _archive() -> Archive:
    return Archive(MemoryStore(ARCHIVE_BYTES), seconds=ARCHIVE_SECONDS)


def _responses() -> Store:
    return MemoryStore(RESPONSE_BYTES)


def _room() -> Room:
    return Room(STATES_BYTES)


@dataclass(frozen=True)
class Services:
    """Everything a route may call.

    `responses` keeps those of /v1/responses that are to be stored, for `response_seconds`.

    A stream's 200 is held until its first token or `hold_seconds`; then `: keep-alive` goes out
    every `keep_alive_seconds`. When the server is told to stop, streams have
    `shutdown_grace_seconds` to end by themselves, and it `is_stopping` from then on. With
    `has_open_metrics` /metrics needs no key.
    """

    models: Models
    admission: Admission
    metrics: GatewayMetrics = field(default_factory=GatewayMetrics)
    keys: KeyRing = field(default_factory=KeyRing)
    archive: Archive = field(default_factory=_archive)
    responses: Store = field(default_factory=_responses)
    response_seconds: float = RESPONSE_SECONDS
    room: Room = field(default_factory=_room)
    max_body_bytes: int = MAX_BODY_BYTES
    has_open_metrics: bool = True
    allowed_origins: tuple[str, ...] = ("*",)
    hold_seconds: float = 10.0
    keep_alive_seconds: float = 10.0
    shutdown_grace_seconds: float = 20.0
    is_stopping: Callable[[], bool] = lambda: False

    def model_for(self, caller: Caller, name: str, *, is_stream: bool) -> ServedModel:
        """The model a request asks for, whose generator is for this request alone.

        Raises RequestError when there is none, or none for this caller.
        """
        model = self.models.find_for(caller, name)
        generator = AdmittedGenerator(
            model.generator,
            self.admission,
            self.metrics,
            caller=caller,
            model=model.spec.name,
            # what a stream waits for is its next event, and keep-alives are some
            patience_seconds=None if is_stream else caller.patience_seconds,
        )
        return replace(model, generator=generator)
