"""A gateway's metrics under vLLM's names, where they mean the same, for dashboards made for it."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

NAMES: Final = {
    "brigade_gateway_requests_running": "vllm:num_requests_running",
    "brigade_gateway_requests_waiting": "vllm:num_requests_waiting",
    "brigade_gateway_prompt_tokens": "vllm:prompt_tokens",
    "brigade_gateway_tokens": "vllm:generation_tokens",
    "brigade_gateway_cached_tokens": "vllm:prefix_cache_hits",
    "brigade_gateway_time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
    "brigade_gateway_time_per_output_token_seconds": "vllm:inter_token_latency_seconds",
    "brigade_gateway_answer_seconds": "vllm:e2e_request_latency_seconds",
    "brigade_gateway_queue_seconds": "vllm:request_queue_time_seconds",
}


class VllmNames(Collector):
    """Tells what others in `registry` tell, once more."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._is_asking = False

    def describe(self) -> list[Metric]:
        """Nothing that is known ahead."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The renamed families; none to itself, as the registry asks every collector there is."""
        if self._is_asking:
            return
        self._is_asking = True
        try:
            families = list(self._registry.collect())
        finally:
            self._is_asking = False
        yield from (_renamed(one, NAMES[one.name]) for one in families if one.name in NAMES)


def _renamed(family: Metric, name: str) -> Metric:
    renamed = Metric(name, family.documentation, family.type, family.unit)
    for sample in family.samples:
        suffix = sample.name.removeprefix(family.name)
        renamed.add_sample(
            name + suffix, sample.labels, sample.value, sample.timestamp, sample.exemplar
        )
    return renamed
