"""What befalls simulated generations, and whether any of them was wronged by it.

`python -m tests.simulation.scenarios [--runs 100000]` tries as many seeds and prints a table.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

from gateway.session import Session
from tests.bench.tables import show
from tests.simulation.line import Faults, Line
from worker.sessions import Sessions

UNDISTURBED = Line(0, Faults()).run()

_scored = Line(0, Faults(scores=True))
_scored.run()
SCORES = _scored.scores

_read = Line(0, Faults(reads=True))
assert _read.run() == []
READ = _read.read

EVERYTHING = Faults(
    kill=0.02, forget=0.02, refuse=0.02, leave=0.03, squeeze=0.02, repeat=0.1, guess=0.7
)
SCENARIOS = {
    "kill": Faults(kill=0.05),
    "forget": Faults(forget=0.05),
    "refuse": Faults(refuse=0.05),
    "leave": Faults(leave=0.05),
    "memory pressure": Faults(squeeze=0.03),
    "standby": Faults(kill=0.05, standby=True),
    "everything": replace(EVERYTHING, guess=0.0),
    "everything, scores": replace(EVERYTHING, guess=0.0, scores=True),
    "everything, reading": replace(EVERYTHING, reads=True),
    "everything, guesses": EVERYTHING,
    "everything, guesses, standby": replace(EVERYTHING, standby=True),
}
LOST_CHECKPOINTS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Tally:
    """What runs came to. Nothing but the first five may be other than 0."""

    runs: int = 0
    faults: int = 0
    moves: int = 0
    values: int = 0
    gap_refusals: int = 0
    wrong: int = 0
    leaks: int = 0
    stuck: int = 0
    first_bad_seed: int = -1

    def __add__(self, other: "Tally") -> "Tally":
        bad = [seed for seed in (self.first_bad_seed, other.first_bad_seed) if seed >= 0]
        return Tally(
            *(
                getattr(self, name) + getattr(other, name)
                for name in list(Tally.__dataclass_fields__)[:-1]
            ),
            first_bad_seed=min(bad, default=-1),
        )


def run(
    seed: int,
    faults: Faults,
    session_class: type[Session] = Session,
    sessions_class: type[Sessions] = Sessions,
) -> Tally:
    """One generation, judged."""
    line = Line(
        seed,
        faults,
        truth=[] if faults.reads else UNDISTURBED,
        session_class=session_class,
        sessions_class=sessions_class,
    )
    try:
        is_wrong = line.run() != ([] if faults.reads else UNDISTURBED)
        is_wrong |= line.read != (READ if faults.reads else {})
        is_wrong |= line.scores != (SCORES if faults.scores else [])
        num_leaks, is_stuck = line.parts_left(), False
    except AssertionError:  # of the simulation: a rule was broken on the way, or it never ended
        is_wrong, num_leaks, is_stuck = False, 0, True
    return Tally(
        1,
        line.num_faults,
        line.session.num_moves,
        line.num_values,
        line.num_gap_refusals,
        is_wrong,
        num_leaks,
        is_stuck,
        seed if is_wrong or num_leaks or is_stuck else -1,
    )


def tally(faults: Faults, seeds: range) -> Tally:
    """Many generations, judged together."""
    return sum((run(seed, faults) for seed in seeds), Tally())


def all_faults() -> list[tuple[str, Faults]]:
    """Every scenario with every share of checkpoints lost, by name."""
    return [
        (f"{name}, {lost:.0%} of copies lost", replace(faults, lost_checkpoints=lost))
        for (name, faults), lost in product(SCENARIOS.items(), LOST_CHECKPOINTS)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    named = all_faults()
    each = -(-options.runs // len(named))
    seeds = range(options.first_seed, options.first_seed + each)
    started = time.monotonic()
    rows, total = [], Tally()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name, faults in named:
            parts = [seeds[start : start + 200] for start in range(0, each, 200)]
            done = sum(pool.map(tally, [faults] * len(parts), parts), Tally())
            total += done
            print(f"{total.runs} runs, {time.monotonic() - started:.0f} s", flush=True)
            rows.append([name, *_cells(done)])
    show("simulated generations", list(COLUMNS), [*rows, ["all", *_cells(total)]])
    raise SystemExit(bool(total.wrong or total.leaks or total.stuck))


COLUMNS = ("scenario", "runs", "faults", "moves", "wrong", "leaks", "stuck", "first bad seed")


def _cells(done: Tally) -> list[object]:
    bad = done.first_bad_seed if done.first_bad_seed >= 0 else ""
    return [done.runs, done.faults, done.moves, done.wrong, done.leaks, done.stuck, bad]


if __name__ == "__main__":
    main()
