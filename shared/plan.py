"""`brigade plan`: what a newcomer would host in a swarm, and why."""

import asyncio
import random
import sys

from pydantic import Field

from shared import logs
from shared.commands import parse, settings_config
from shared.explanation import explain
from shared.observer import ObserverSettings, observing
from shared.placement import choose_span, survey, typical_speed
from shared.swarm import SwarmView, uncovered

EPILOG = """\
A worker that is started without --blocks chooses them as this command does: what nobody hosts
first, then what gets the fewest tokens a second, then what has the fewest spares. A block gets
what its workers do in the time that their other blocks leave them; so a fast worker beside a slow
one is worth more than two beside each other.

examples:
  brigade plan --join ADDRESS --fits 8                    prints e.g. 16:24
  brigade plan --join ADDRESS --fits 8 --explain          and all that led to it
  brigade plan --join ADDRESS --fits 8 --speed 2000 --explain
"""


class PlanSettings(ObserverSettings):
    """Say which blocks a newcomer would host in a swarm. Joins it only to look."""

    model_config = settings_config("PLAN_")

    fits: int = Field(8, ge=1, le=4096, description="blocks the newcomer has room for")
    speed: float = Field(
        0.0, ge=0, description="block-tokens it does a second; 0 = as the others, in the median"
    )
    explain: bool = Field(False, description="say why, and what other rules would have done")


def main(argv: list[str]) -> int:
    """Look, plan, print; returns the exit status."""
    settings = parse(PlanSettings, argv, prog="brigade plan", epilog=EPILOG)
    logs.set_up("error", "console")
    print(asyncio.run(_look(settings)), flush=True)
    return 0


async def _look(settings: PlanSettings) -> str:
    """A plan by what there is to see, once all is covered or nothing more is to be expected."""
    async with observing(settings) as observer:
        whole = observer.spec.blocks
        await observer.wait_until(
            lambda view: not uncovered((one.span for one in view.values()), whole),
            seconds=settings.wait_seconds,
        )
        if not observer.view:
            print(f"brigade plan: {await observer.absence.explained()}", file=sys.stderr)
        return planned(observer.view, whole.end, settings)


def planned(view: SwarmView, num_blocks: int, settings: PlanSettings) -> str:
    """What to print of a view."""
    seen = survey(view, num_blocks)
    speed = settings.speed or typical_speed(view)
    choice = choose_span(seen, settings.fits, speed, random.Random(0).random)
    return explain(seen, choice, speed) if settings.explain else str(choice.span)
