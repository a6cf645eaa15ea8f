"""How much memory processes hold over time, and how fast it grows."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

MIB = 1 << 20
WARM_UP = 0.25
"""Share of a process's samples that are its start, and say nothing of growth."""
MIN_SAMPLES = 8


@dataclass(frozen=True)
class Growth:
    """One process's memory in MiB, from the first sample to the last, and MiB more each hour."""

    name: str
    first: float
    last: float
    slope: float


@dataclass
class Memory:
    """Samples of the memory that processes share with nobody."""

    _samples: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def sample(self, name: str, pid: int, now: float) -> None:
        """Note what a process holds, unless it is gone."""
        try:
            held = psutil.Process(pid).memory_full_info().uss / MIB
        except psutil.Error:
            return
        self.note(name, now, held)

    def note(self, name: str, now: float, held: float) -> None:
        """Add a sample, in MiB."""
        self._samples[name].append((now, held))

    def growths(self) -> Iterator[Growth]:
        """Every process that was seen often enough."""
        for name, samples in self._samples.items():
            warm = samples[int(WARM_UP * len(samples)) :]
            if len(warm) >= MIN_SAMPLES:
                times, held = zip(*warm, strict=True)
                slope = statistics.linear_regression(times, held).slope
                yield Growth(name, held[0], held[-1], slope * 3600)
