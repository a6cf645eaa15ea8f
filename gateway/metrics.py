"""What a gateway tells Prometheus."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.admission import Admission
from gateway.checkpoints import Checkpoints
from gateway.generator import Token
from gateway.tallies import Count, Spread, Tally
from gateway.vllm_names import VllmNames

FIRST_TOKEN_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
TOKEN_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


ANSWER_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)


class GatewayMetrics:
    """Counters and gauges of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(VllmNames(self.registry))
        self.tokens = Tally("brigade_gateway_tokens", "Tokens made.", self.registry).of()
        self.cached_tokens = self._counter(
            "cached_tokens", "Prompt tokens that workers had kept from an earlier session."
        )
        self.read_tokens = self._counter(
            "read_tokens", "Tokens of texts that only had to be read: for their states or logits."
        )
        self.guessed = self._counter("guessed_tokens", "Tokens guessed ahead.")
        self.guessed_right = self._counter("guessed_right_tokens", "Guesses that were right.")
        self.takeovers = Counter(
            "brigade_gateway_takeovers",
            "Hops of a session that went to other workers: after a loss, to a standby after a "
            "loss, or ahead of a leave.",
            ["kind"],
            registry=self.registry,
        )
        self.replayed_tokens = self._counter(
            "replayed_tokens", "Tokens run again to rebuild or to shadow a hop."
        )
        self.replayed_bytes = self._counter(
            "replayed_bytes", "Bytes of checkpoints sent to rebuild or to shadow a hop."
        )
        self.dropped_copies = self._counter(
            "dropped_copies", "Checkpoint copies dropped because too many waited."
        )
        self.relayed_frames = self._counter(
            "relayed_frames", "Frames passed on between workers that have no link to each other."
        )
        self.relayed_bytes = self._counter("relayed_bytes", "Bytes of such frames.")
        self.store_failures = self._counter(
            "resume_store_failures", "Calls to the resume store that failed."
        )
        self.resumed = self._counter("resumed_answers", "Answers that a client came back for.")
        self.key_tokens = Tally(
            "brigade_gateway_key_tokens",
            "Tokens of each API key's prompts and answers, by its name; empty without keys.",
            self.registry,
            ["key", "kind"],
        )
        self.key_requests = Counter(
            "brigade_gateway_key_requests",
            "Requests that came in with an API key, by its name and by status.",
            ["key", "status"],
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "brigade_gateway_queue_seconds",
            "Time that a generation waited for its turn.",
            buckets=FIRST_TOKEN_SECONDS,
            registry=self.registry,
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts that were read.")
        self.cancelled = self._counter(
            "requests_cancelled", "Requests whose client was gone before the end of their answer."
        )
        self.answer_seconds = Histogram(
            "brigade_gateway_answer_seconds",
            "Time from a valid request to its last token, the wait for a place included.",
            buckets=ANSWER_SECONDS,
            registry=self.registry,
        )
        self.requests = Counter(
            "brigade_gateway_http_requests",
            "Requests answered, by the template of their route and by status; 499 stands for a "
            "client that did not wait.",
            ["route", "status"],
            registry=self.registry,
        )
        self.first_token_seconds = Spread(
            "brigade_gateway_time_to_first_token_seconds",
            "Time from a valid request to its first token, the wait for a place included.",
            self.registry,
            FIRST_TOKEN_SECONDS,
        )
        self.token_seconds = Spread(
            "brigade_gateway_time_per_output_token_seconds",
            "Time from one token of an answer to the next; guesses that were right come at once.",
            self.registry,
            TOKEN_SECONDS,
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        gauge = Gauge(f"brigade_gateway_{name}", help_text, registry=self.registry)
        gauge.set_function(value)

    def watch_parts(
        self,
        checkpoints: Checkpoints,
        admission: Admission,
        num_workers: Callable[[], int],
        num_attached: Callable[[], int] = lambda: 0,
    ) -> None:
        """Gauges of what a gateway holds, and for whom."""
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "checkpoint_bytes": ("Checkpoints held in memory.", lambda: checkpoints.num_bytes),
            "checkpoint_disk_bytes": (
                "Checkpoints held on disk, until nobody needs what they were written with.",
                lambda: checkpoints.disk_bytes,
            ),
            "checkpoint_budget_bytes": (
                "Checkpoints that may be held in memory.",
                lambda: checkpoints.budget_bytes,
            ),
            "checkpoint_shed_bytes": (
                "Checkpoints of running sessions let go of, as too much was held.",
                lambda: checkpoints.shed_bytes,
            ),
            "requests_running": ("Generations that run.", lambda: admission.num_running),
            "requests_waiting": (
                "Generations that wait for a place.",
                lambda: admission.num_waiting,
            ),
            "workers": ("Workers in view.", num_workers),
            "attached_workers": (
                "Workers that cannot be dialled and are attached here.",
                num_attached,
            ),
        }
        for name, (help_text, value) in gauges.items():
            self.watch(name, help_text, value)

    def read_for(self, key: str, num_tokens: int) -> None:
        """Tokens of a prompt, for a key of that name."""
        self.prompt_tokens.inc(num_tokens)
        self.key_tokens.of(key, "prompt").inc(num_tokens)

    def made_for(self, key: str) -> Count:
        """Counts the tokens of an answer, for a key of that name."""
        return self.key_tokens.of(key, "completion")

    async def timed(
        self,
        tokens: AsyncGenerator[Token, None],
        began: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> AsyncGenerator[Token, None]:
        """The same tokens. Only the waits for them count, not what is done between."""
        histogram, since = self.first_token_seconds, began
        try:
            async with aclosing(tokens) as source:
                async for token in source:
                    histogram.observe(clock() - since)
                    histogram = self.token_seconds
                    since = clock()
                    yield token
                    since = clock()
        finally:
            if histogram is self.token_seconds:
                self.answer_seconds.observe(since - began)

    def _counter(self, name: str, help_text: str) -> Counter:
        return Counter(f"brigade_gateway_{name}", help_text, registry=self.registry)
