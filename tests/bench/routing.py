"""How long planning a route takes, and what looking at few workers for each block costs.

1,000 random workers on 100 blocks, of which the gateway is linked to 64. Times are of the
processor, the least of many: whatever else runs here only adds to them.
`python -m tests.bench.routing`
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from shared import roster as roster_module
from shared.costs import Prices
from shared.pace import Pace
from shared.roster import CHOICES, Roster
from shared.survey import Load, Needs, Survey
from shared.swarm import Announcement, PeerId, Span
from shared.trellis import Ends, Plan, Trellis
from tests.bench.tables import show
from tests.shared.announcing import announcement

NUM_WORKERS = 1000
NUM_BLOCKS = 100
NUM_LINKED = 64
LENGTHS = ((5, 30), (2, 4), (20, 60))
NEEDS = (Needs(200, 100, 16384), Needs(0, 100, 16384), Needs(4000, 50, 16384))
ALL = Span(0, NUM_BLOCKS)


def random_swarm(lengths: tuple[int, int], seed: int) -> tuple[dict[PeerId, Announcement], Survey]:
    """Workers anywhere, as fast and as far as chance wants them."""
    rng = random.Random(seed)
    names = [PeerId(f"12D3KooW{number:044}") for number in range(NUM_WORKERS)]
    view: dict[PeerId, Announcement] = {}
    for name in names:
        length = rng.randint(*lengths)
        start = rng.randint(0, NUM_BLOCKS - length)
        alone = 0.005 * rng.lognormvariate(0, 0.7)
        view[name] = announcement(
            worker=name,
            span=Span(start, start + length),
            num_blocks=NUM_BLOCKS,
            pace=Pace((alone, 2 * alone, 5 * alone), alone / 10),
        )
    linked = names[:NUM_LINKED]
    survey = Survey(
        delays={name: rng.uniform(0.002, 0.1) for name in linked},
        between={
            name: {other: rng.uniform(0.002, 0.15) for other in rng.sample(linked, 32)}
            for name in linked
        },
        loads={
            name: Load(rng.randint(0, 5), rng.randint(0, 100), rng.random(), 1 << 20, 1e7)
            for name in linked
        },
    )
    return view, survey


def least_milliseconds(act: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """The least processor time of many, and what came of it."""
    least, made = float("inf"), None
    for _ in range(rounds):
        started = time.thread_time()
        made = act()
        least = min(least, time.thread_time() - started)
    return 1000 * least, made


def plan(roster: Roster, survey: Survey, needs: Needs) -> Plan:
    prices = Prices(survey, needs)
    offers = roster.shortlist(prices, ALL, avoid=set(), trusted=None)
    found = Trellis(prices, ALL, Ends()).cheapest(offers)
    assert found
    return found


def row_of(lengths: tuple[int, int], seeds: int, rounds: int) -> list[str]:
    """A line of the table."""
    layouts: list[float] = []
    plans: list[float] = []
    losses: list[float] = []
    for seed in range(seeds):
        view, survey = random_swarm(lengths, seed)
        milliseconds, roster = least_milliseconds(lambda v=view: Roster(v, NUM_BLOCKS), rounds)
        layouts.append(milliseconds)
        for needs in NEEDS:
            act = lambda r=roster, s=survey, n=needs: plan(r, s, n)  # noqa: E731
            milliseconds, few = least_milliseconds(act, rounds)
            plans.append(milliseconds)
            roster_module.CHOICES = NUM_WORKERS
            losses.append(few.seconds / act().seconds - 1)
            roster_module.CHOICES = CHOICES
    return [
        "{} to {}".format(*lengths),
        f"{statistics.median(layouts):.2f}",
        f"{statistics.median(plans):.2f}",
        f"{max(plans):.2f}",
        f"{100 * statistics.mean(losses):.1f} %",
        f"{100 * max(losses):.1f} %",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    show(
        f"milliseconds to lay out a view of {NUM_WORKERS} workers, to plan a route through "
        f"{NUM_BLOCKS} blocks, and how much worse it is than the best",
        ["blocks a worker", "layout", "plan", "slowest", "worse", "at most"],
        [row_of(lengths, options.seeds, options.rounds) for lengths in LENGTHS],
    )


if __name__ == "__main__":
    main()
