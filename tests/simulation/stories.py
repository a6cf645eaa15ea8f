"""Swarms that grow and lose workers, and how near to the best possible throughput they stay.

`make placement` (`python -m tests.simulation.stories`) prints a table for every kind of swarm,
beside what Petals' and Parallax's rules come to, and draws it.
"""

import argparse
import os
import random
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product

from shared.flow import bound
from shared.swarm import PeerId
from tests.bench.tables import show
from tests.simulation.placement import Machine, Town
from tests.simulation.rival_towns import ParallaxTown, PetalsTown, RivalTown

SETTLED_SECONDS = 2400.0
BAR_WIDTH = 50
QUIET_SECONDS = 600.0
"""At the end of each chapter, when nobody should move any more."""
MAX_PETALS = 60
"""Petals' rule imagines everybody's moves each time anybody looks: more workers take hours."""

# Of arXiv:2209.01188: blocks of BLOOM-176B in int8 that fit each GPU, and its memory's GB/s
PAPER = ((4, 360),) * 2 + ((4, 616),) * 4 + ((9, 936),) * 2 + ((5, 448),) * 2 + ((9, 768),) * 4
NUM_BLOCKS = {"paper": 70, "even": 80, "wild": 80}
LOSSES = ("1 %", "5 %", "20 %", "50 %", "wave", "spite")


def machines(kind: str, count: int, chance: random.Random) -> list[Machine]:
    """Volunteers: those of Petals' paper, of its simulations, or far more uneven ones."""
    if kind == "paper":
        made = [Machine(*PAPER[index % len(PAPER)]) for index in range(count)]
        chance.shuffle(made)
        return made
    if kind == "even":
        return [Machine(chance.randint(4, 24), chance.uniform(50, 150)) for _ in range(count)]
    return [
        Machine(min(40, max(1, int(chance.lognormvariate(2, 1)))), chance.lognormvariate(4, 1))
        for _ in range(count)
    ]


@dataclass
class Record:
    """What came of one or many stories."""

    after_joins: list[float] = field(default_factory=list[float])
    after_losses: list[float] = field(default_factory=list[float])
    bare_seconds: list[float] = field(default_factory=list[float])
    num_lost: int = 0
    num_moves: int = 0
    num_restless: int = 0
    """Moves when everything should have been quiet."""
    holes_made: int = 0
    seconds: float = 0.0
    """Of computing, for all its workers together."""
    num_stories: int = 0

    def __add__(self, other: "Record") -> "Record":
        return Record(*(getattr(self, n) + getattr(other, n) for n in self.__dataclass_fields__))


def story(seed: int, kind: str, count: int, losses: Sequence[str] = LOSSES) -> Record:
    """One swarm under our rules: joins, then losses, in each case until all is quiet again."""
    chance, record, began = random.Random(seed), Record(), time.process_time()
    town = Town(NUM_BLOCKS[kind], seed)
    for machine in machines(kind, count, chance):
        town.join(machine)
        town.run(chance.expovariate(count / 600))
    town.run(SETTLED_SECONDS)
    record.after_joins.append(town.efficiency)
    for loss in chance.sample(losses, len(losses)):
        bare, moves = len(town.story.bare_seconds), len(town.story.moves)
        gone = _doomed(town, loss, chance)
        for group in gone:
            town.lose(group)
            town.run(chance.uniform(0, 120) if len(gone) > 1 else 0)
        town.run(SETTLED_SECONDS)
        if town.is_possible:
            record.after_losses.append(town.efficiency)
            record.bare_seconds += town.story.bare_seconds[bare:]
            record.num_lost += sum(map(len, gone))
            record.num_moves += len(town.story.moves) - moves
        quiet = town.now - QUIET_SECONDS
        record.num_restless += sum(moment > quiet for moment in town.story.moves)
        for machine in machines(kind, sum(map(len, gone)), chance):  # as many come as went
            town.join(machine)
            town.run(chance.expovariate(1 / 10))
        town.run(SETTLED_SECONDS)
        record.after_joins.append(town.efficiency)
    record.holes_made = town.story.holes_made
    record.seconds, record.num_stories = time.process_time() - began, 1
    return record


def rival_story(town_class: type[RivalTown], seed: int, kind: str, count: int) -> Record:
    """The same for another rule; no time passes there."""
    chance, record, began = random.Random(seed), Record(), time.process_time()
    town = town_class(NUM_BLOCKS[kind], seed)
    for machine in machines(kind, count, chance):
        town.join(machine)
    town.settle()
    record.after_joins.append(town.efficiency)
    for share in (0.01, 0.05, 0.2, 0.5):
        gone = chance.sample(range(len(town.hosts)), max(1, int(share * len(town.hosts))))
        before = town.num_moves
        town.lose(gone)
        town.settle()
        if bound(town.hosts, town.num_blocks):
            record.after_losses.append(town.efficiency)
            record.num_lost += len(gone)
            record.num_moves += town.num_moves - before
        for machine in machines(kind, len(gone), chance):
            town.join(machine)
        town.settle()
        record.after_joins.append(town.efficiency)
    record.seconds, record.num_stories = time.process_time() - began, 1
    return record


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so many are below; not a number without any."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else float("nan")


def _doomed(town: Town, loss: str, chance: random.Random) -> list[list[PeerId]]:
    """Who leaves, in groups that leave at a time."""
    alive = sorted(town.alive)
    if loss == "wave":
        chance.shuffle(alive)
        some = max(1, len(alive) // 20)
        return [alive[index * some : (index + 1) * some] for index in range(5)]
    if loss == "spite":
        return [_those_who_hurt_most(town, max(1, len(alive) // 20))]
    count = max(1, int(float(loss.partition(" ")[0]) / 100 * len(alive)))
    return [chance.sample(alive, count)]


def _those_who_hurt_most(town: Town, count: int) -> list[PeerId]:
    """All who host the block with the fewest hosts, then those of the next."""
    by_block = sorted(
        (
            [worker for worker, one in town.alive.items() if one.span.start <= b < one.span.end]
            for b in range(town.num_blocks)
        ),
        key=len,
    )
    doomed = dict.fromkeys(worker for workers in by_block for worker in workers)
    return list(doomed)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=10, help="of each kind")
    parser.add_argument("--workers", type=int, nargs="+", default=[14, 28, 60, 200, 1000, 3000])
    parser.add_argument("--kinds", nargs="+", default=list(NUM_BLOCKS), choices=NUM_BLOCKS)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.stories)
    rows: list[list[object]] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for count, kind in product(options.workers, options.kinds):
            told = {"ours": _sum(pool.map(partial(story, kind=kind, count=count), seeds))}
            for town_class in (PetalsTown, ParallaxTown):
                if town_class is PetalsTown and count > MAX_PETALS:
                    continue
                tell = partial(rival_story, town_class, kind=kind, count=count)
                name = town_class.__name__.removesuffix("Town")
                told[name] = _sum(pool.map(tell, seeds))
            rows += [[kind, count, rule, *cells(record)] for rule, record in told.items()]
            print(*rows[-len(told)], flush=True)
    show(f"placement, {options.stories} stories of each", COLUMNS, rows)
    print("throughput after losses, % of the bound: █ in 95 of 100 cases, ░ in the median")
    print(plot(rows))


COLUMNS = (
    *("swarm", "workers", "rule", "joined: median", "p5", "after losses: median", "p5"),
    *("moves a loss", "restless", "holes made", "bare s, median", "max", "CPU s a story"),
)


def cells(record: Record) -> list[object]:
    """A record as a row: efficiencies in percent of the bound."""
    joined, lost = record.after_joins, record.after_losses
    percents = [quantile(joined, 0.5), quantile(joined, 0.05), quantile(lost, 0.5)]
    percents.append(quantile(lost, 0.05))
    return [
        *(f"{100 * share:.1f}" for share in percents),
        f"{record.num_moves / max(1, record.num_lost):.2f}",
        record.num_restless,
        record.holes_made,
        *(f"{quantile(record.bare_seconds, share):.0f}" for share in (0.5, 1.0)),
        f"{record.seconds / max(1, record.num_stories):.1f}",
    ]


def plot(rows: Sequence[Sequence[object]]) -> str:
    """A bar for each row: efficiency after losses, full up to p5 and light up to the median."""
    return "\n".join(
        f"{row[0]!s:>6}{row[1]!s:>6} {row[2]!s:<9}{_bar(str(row[5]), str(row[6]))} {row[5]} %"
        for row in rows
    )


def _bar(middle: str, low: str) -> str:
    if "nan" in (middle, low):
        return " " * BAR_WIDTH
    full, light = (round(float(text) / 100 * BAR_WIDTH) for text in (low, middle))
    return ("█" * full + "░" * (light - full)).ljust(BAR_WIDTH, "·")


def _sum(records: Iterable[Record]) -> Record:
    return sum(records, Record())


if __name__ == "__main__":
    main()
