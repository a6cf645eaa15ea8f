"""What a worker tells Prometheus, and the plain HTTP on its link port that tells it."""

from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class WorkerMetrics:
    """Counters and gauges of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tokens = Counter(
            "brigade_worker_tokens",
            "Tokens run through the span, by kind of step.",
            ["kind"],
            registry=self.registry,
        )
        self.sampled = Counter(
            "brigade_worker_sampled_tokens", "Tokens sampled.", registry=self.registry
        )
        self.refusals = Counter(
            "brigade_worker_refusals",
            "Steps refused, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.batch_sessions = Histogram(
            "brigade_worker_batch_sessions",
            "Sessions that shared a forward.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.forward_seconds = Histogram(
            "brigade_worker_forward_seconds",
            "Time of one forward of the span, by kind of step.",
            ["kind"],
            buckets=STEP_SECONDS,
            registry=self.registry,
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        gauge = Gauge(f"brigade_worker_{name}", help_text, registry=self.registry)
        gauge.set_function(value)

    def ran(self, counts: list[int], num_sampled: int, seconds: float) -> None:
        """One forward is done: `counts` are the tokens of each session in it."""
        kind = kind_of(counts)
        self.tokens.labels(kind).inc(sum(counts))
        self.sampled.inc(num_sampled)
        self.batch_sessions.observe(len(counts))
        self.forward_seconds.labels(kind).observe(seconds)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Plain HTTP on the port that takes links: /metrics and /health; None lets a link begin."""
        if "Upgrade" in request.headers:
            return None
        if request.path == "/metrics":
            return _plain(HTTPStatus.OK, generate_latest(self.registry), CONTENT_TYPE_LATEST)
        if request.path == "/health":
            return _plain(HTTPStatus.OK, b"ok\n", "text/plain")
        return _plain(HTTPStatus.NOT_FOUND, b"this port takes WebSocket links\n", "text/plain")


def kind_of(counts: list[int]) -> str:
    """`decode` where every session ran one token, `prefill` where none did, else `mixed`."""
    num_decodes = counts.count(1)
    if num_decodes == len(counts):
        return "decode"
    return "mixed" if num_decodes else "prefill"


def _plain(status: HTTPStatus, body: bytes, content_type: str) -> Response:
    headers = Headers({"Content-Type": content_type, "Content-Length": str(len(body))})
    headers["Connection"] = "close"
    return Response(status.value, status.phrase, headers, body)
