"""What a chaos run has seen, and what of it must not be. Pure: times come in."""

import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SLACK_SECONDS = 0.25
"""A gap counts for a fault that came this much after its first token: about a token's time."""
MAX_COMPLAINTS = 20


@dataclass(frozen=True)
class Struck:
    """A fault that was done, or what it did."""

    at: float
    kind: str
    detail: str


@dataclass(frozen=True)
class Row:
    """A line of the table: one kind of fault."""

    kind: str
    faults: int
    stalls: Sequence[float]
    backs: Sequence[float]


@dataclass
class Ledger:
    """Faults, streams and complaints of one run."""

    faults: list[Struck] = field(default_factory=list)
    streams: int = 0
    left: int = 0
    wrong: int = 0
    lost: int = 0
    tokens: int = 0
    refused: int = 0
    late: int = 0
    """Newcomers that were given up, as they were not up in time."""
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[Struck] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _stalls: dict[int, float] = field(default_factory=dict)
    _backs: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def struck(self, at: float, kind: str, detail: str) -> None:
        """A fault begins."""
        self.faults.append(Struck(at, kind, detail))

    def came_back(self, kind: str, seconds: float) -> None:
        """A worker was seen again that long after a fault was over."""
        self._backs[kind].append(seconds)

    def complain(self, sentence: str) -> None:
        """Something happened that must not."""
        self.complaints.append(sentence)

    def fail(self, at: float, name: str, reason: str) -> None:
        """A stream ended before its time."""
        self.failed[f"{name}: {reason}"] += 1
        self.failures.append(Struck(at, "failed", f"{name}: {reason}"))

    def heard(self, began: float, arrivals: Sequence[float]) -> None:
        """When a stream began and its pieces came."""
        self.streams += 1
        if arrivals:
            self.first_tokens.append(arrivals[0] - began)
        for before, after in pairwise(arrivals):
            index = bisect_right(self.faults, before + SLACK_SECONDS, key=lambda f: f.at) - 1
            if index >= 0:
                self._stalls[index] = max(self._stalls.get(index, 0.0), after - before)

    @property
    def worst_stall(self) -> float:
        """The longest that any stream stood still."""
        return max(self._stalls.values(), default=0.0)

    def rows(self) -> list[Row]:
        """The table. A fault's stall is the longest gap of any stream that began after it and
        before the next fault.
        """
        kinds = Counter(fault.kind for fault in self.faults)
        return [
            Row(
                kind,
                count,
                sorted(s for i, s in self._stalls.items() if self.faults[i].kind == kind),
                sorted(self._backs[kind]),
            )
            for kind, count in sorted(kinds.items())
        ]

    def verdict(self) -> list[str]:
        """All that must not be, as sentences."""
        wrong = [f"{self.wrong} tokens wrong"] if self.wrong else []
        lost = [f"{self.lost} tokens lost"] if self.lost else []
        failed = [f"{n} streams failed: {reason}" for reason, n in self.failed.items()]
        return [*wrong, *lost, *failed, *self.complaints][:MAX_COMPLAINTS]


def spread(seconds: Sequence[float]) -> list[str]:
    """Median, 95th percentile and the most of some times, for people."""
    if not seconds:
        return ["-"] * 3
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return [f"{value:.2f}" for value in (statistics.median(ordered), p95, ordered[-1])]
