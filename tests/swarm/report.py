"""What came of a chaos run, for people: its table, its sums, and where its logs are."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tests.bench.tables import show
from tests.swarm.ledger import Ledger, spread
from tests.swarm.memory import Memory
from tests.swarm.nursery import Nursling

MAX_GROWTH_MIB = 200.0


@dataclass
class Outcome:
    """What came of it."""

    ledger: Ledger
    memory: Memory = field(default_factory=Memory)
    leaked: int = 0
    seconds: float = 0.0

    def verdict(self) -> list[str]:
        """All that must not be, as sentences."""
        leaked = [f"{self.leaked} sessions leaked"] if self.leaked else []
        grown = [
            f"{growth.name} grew from {growth.first:.0f} to {growth.last:.0f} MiB"
            for growth in self.memory.growths()
            if growth.last - growth.first > MAX_GROWTH_MIB
        ]
        return [*leaked, *grown, *self.ledger.verdict()]


def report(seed: int, outcome: Outcome) -> None:
    """Print what came of a run."""
    ledger = outcome.ledger
    show(
        f"seed {seed}: {len(ledger.faults)} faults in {outcome.seconds / 60:.1f} minutes; seconds",
        ["fault", "times", "stall p50", "p95", "max", "back p50", "p95", "max"],
        [[row.kind, row.faults, *spread(row.stalls), *spread(row.backs)] for row in ledger.rows()],
    )
    growths = list(outcome.memory.growths())
    if growths:
        show(
            "memory of those who lived long enough, MiB",
            ["process", "first", "last", "more each hour"],
            [[g.name, *(f"{value:.0f}" for value in (g.first, g.last, g.slope))] for g in growths],
        )
    facts = {
        "streams": f"{ledger.streams}, of which {ledger.left} were left by their client",
        "tokens": ledger.tokens,
        "tokens wrong": ledger.wrong,
        "tokens lost": ledger.lost,
        "streams failed": ledger.failed.total(),
        "refused or given up": f"{ledger.refused}, while a span had no worker that was well",
        "newcomers too late": f"{ledger.late}, in whose place others were started",
        "sessions leaked": outcome.leaked,
        "first token p50, p95, max": ", ".join(spread(ledger.first_tokens)),
    }
    for name, fact in facts.items():
        print(f"  {name:26} {fact}")
    for sentence in outcome.verdict():
        print(f"  WRONG: {sentence}")


def save_logs(processes: Iterable[Nursling], ledger: Ledger, directory: Path) -> None:
    """Write what every process printed, and what was done to them and when."""
    directory.mkdir(parents=True, exist_ok=True)
    for process in processes:
        name = process.name.replace(" ", "-")
        (directory / f"{name}.log").write_text("\n".join(process.lines) + "\n")
    events = sorted([*ledger.faults, *ledger.failures], key=lambda event: event.at)
    offset = time.time() - time.monotonic()
    (directory / "faults.log").write_text(
        "".join(f"{_clock(e.at + offset)} {e.kind}: {e.detail}\n" for e in events)
    )


def _clock(at: float) -> str:
    """A time as the processes' logs write it."""
    return datetime.fromtimestamp(at).strftime("%H:%M:%S.%f")
