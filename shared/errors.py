"""The tree of errors. Each has a stable `code`; its message names the thing and the remedy.

BrigadeError
├── ConfigError          an operator's mistake: print the message, exit 2
│   └── ModelError       the model's files are missing, broken or of an unknown kind
├── ProtocolError        a peer broke the protocol: close its link
│   └── HandshakeError   a peer could not prove who it is, or belongs to another swarm
├── RecordError          an announcement is not to be believed: drop it
├── PeerUnreachable      no link to a peer: treat it as lost
├── NoRoute              some blocks have no worker: wait for one, or answer 503
├── CheckpointLost       inputs cannot be read again: forget them, rebuild from further upstream
├── StepRefused          a worker will not run a step: tell the gateway, with the code
├── GrammarError         a grammar cannot be followed: say why to whoever wrote it
├── GenerationFailed     a stream cannot go on: say so honestly to the client
└── RequestError         an HTTP client's mistake: 4xx, naming the parameter
"""

from typing import ClassVar, Literal

RefusalCode = Literal[
    "position_gap",  # the cache ends before the step begins; `cached` says where
    "no_pages",  # no memory for the session's tokens
    "draining",  # the worker is leaving and takes no new session
    "next_unreachable",  # the hop after this one cannot be reached; `lost` names it
    "bad_step",  # the step does not fit this worker's model or span
    "bad_inputs",  # the hidden states are not finite: what came before is at fault
    "engine_failed",  # the computation itself failed
    "no_grammars",  # this worker cannot follow grammars; another one may
    "bad_sampling",  # what is asked of the choice of tokens cannot be done by any worker
]
"""Why a worker did not run a step, as it stands on the wire."""


class BrigadeError(Exception):
    """The root: anything this project raises on purpose."""

    code: ClassVar[str] = "internal_error"


class ConfigError(BrigadeError):
    """An operator asked for something that cannot work."""

    code = "bad_configuration"


class ModelError(ConfigError):
    """The model's files cannot be used."""

    code = "bad_model"


class ProtocolError(BrigadeError):
    """A peer sent what the protocol does not allow."""

    code = "protocol_error"


class HandshakeError(ProtocolError):
    """A peer did not prove its identity, or speaks for another swarm."""

    code = "handshake_failed"


class RecordError(BrigadeError):
    """A signed record is malformed, forged, expired or for another topic."""

    code = "bad_record"


class PeerUnreachable(BrigadeError):
    """A peer cannot be dialled, or its link broke."""

    code = "peer_unreachable"


class NoRoute(BrigadeError):
    """No workers cover some of the blocks asked for."""

    code = "no_worker_available"


class CheckpointLost(BrigadeError):
    """Checkpointed inputs are not there any more, or their disk gives them back no more."""

    code = "checkpoint_lost"


class StepRefused(BrigadeError):
    """A worker will not run a step. `cached` is its cache's length."""

    code = "step_refused"

    def __init__(self, reason: RefusalCode, detail: str, *, cached: int = 0) -> None:
        super().__init__(detail)
        self.reason: RefusalCode = reason
        self.cached = cached


class GrammarError(BrigadeError):
    """A grammar does not compile, is too costly, or leaves no token to choose."""

    code = "bad_grammar"


class GenerationFailed(BrigadeError):
    """A generation cannot go on. `reason` is the code a client sees."""

    code = "generation_failed"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class RequestError(BrigadeError):
    """An HTTP request cannot be served as asked.

    `status` is the HTTP status, `param` the JSON path of the offending field, `reason` the
    `error.code` that clients match on, `kind` the `error.type` where it is not that of the status,
    `retry_seconds` when it is worth another try, where that is known.
    """

    code = "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        reason: str | None = None,
        status: int = 400,
        kind: str | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.reason = reason
        self.status = status
        self.kind = kind
        self.retry_seconds = retry_seconds
