"""Counts of what happens once a token, for Prometheus to read.

The library's own counters and histograms take a lock and several calls each time, which for a few
of them is more than it takes to encode a token. These are plain numbers of the event loop.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Count:
    """One number that grows."""

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """So many more."""
        self.value += amount


class Tally(Collector):
    """A counter, or one for each combination of the values of its `labels`."""

    def __init__(
        self, name: str, help_text: str, registry: CollectorRegistry, labels: Sequence[str] = ()
    ) -> None:
        self._name = name
        self._help = help_text
        self._labels = tuple(labels)
        self._counts: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def of(self, *values: str) -> Count:
        """The count for these values of the labels."""
        return self._counts.setdefault(values, Count())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Called by the registry."""
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count.value)
        yield family


class Spread(Collector):
    """A histogram of seconds; `bounds` are the upper ends of its buckets."""

    def __init__(
        self, name: str, help_text: str, registry: CollectorRegistry, bounds: Sequence[float]
    ) -> None:
        self._name = name
        self._help = help_text
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, seconds: float) -> None:
        """It took so long, once more."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Called by the registry."""
        ends = [*map(str, map(float, self._bounds)), "+Inf"]
        buckets = list(zip(ends, accumulate(self._counts), strict=True))
        family = HistogramMetricFamily(self._name, self._help)
        family.add_metric((), buckets, self._sum)
        yield family
