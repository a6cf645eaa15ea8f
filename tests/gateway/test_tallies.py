"""What is counted here is told as the library's own counters and histograms would tell it."""

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.samples import Sample

from gateway.tallies import Spread, Tally


def told(registry: CollectorRegistry) -> list[Sample]:
    """But for when a counter was made, which is told of none here."""
    samples = [sample for family in registry.collect() for sample in family.samples]
    return [sample for sample in samples if not sample.name.endswith("_created")]


def test_a_tally_tells_what_a_counter_tells():
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = Tally("words", "Words.", ours, ["key", "kind"])
    counter = Counter("words", "Words.", ["key", "kind"], registry=theirs)
    for key, kind, amount in (("a", "x", 1), ("b", "x", 7), ("a", "x", 2), ("a", "y", 0)):
        tally.of(key, kind).inc(amount)
        counter.labels(key, kind).inc(amount)
    assert told(ours) == told(theirs)


def test_a_tally_without_labels_is_told_before_it_counts_anything():
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    count = Tally("words", "Words.", ours).of()
    counter = Counter("words", "Words.", registry=theirs)
    assert told(ours) == told(theirs)
    count.inc()
    counter.inc()
    assert told(ours) == told(theirs)


def test_a_spread_tells_what_a_histogram_tells():
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bounds = (0.25, 1, 2.5)
    spread = Spread("waits_seconds", "Waits.", ours, bounds)
    histogram = Histogram("waits_seconds", "Waits.", buckets=bounds, registry=theirs)
    assert told(ours) == told(theirs)
    for seconds in (0.0, 0.25, 0.5, 1.0, 2.75, 99.0):
        spread.observe(seconds)
        histogram.observe(seconds)
    assert told(ours) == told(theirs)
