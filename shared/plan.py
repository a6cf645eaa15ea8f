"""`brigade plan`: what a newcomer would host in a swarm, and why."""

import asyncio
import random
import sys
from collections.abc import Sequence

from pydantic import Field

from shared import logs
from shared.catalogue import few, need, state_of
from shared.commands import parse, settings_config
from shared.errors import ConfigError
from shared.explanation import explain
from shared.observer import (
    Observer,
    ObserverSettings,
    looking_out,
    names_model,
    spec_of,
)
from shared.placement import choose_span, survey, typical_speed
from shared.swarm import SwarmView

EPILOG = """\
Without --model it is about the model of the swarm that needs help most, as for a worker.
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
    print(asyncio.run(look(settings)), flush=True)
    return 0


async def look(settings: PlanSettings) -> str:
    """A plan by what there is to see, once all is covered or nothing more is to be expected."""
    async with looking_out(settings) as lookout:
        named = names_model(settings)
        observers = [await lookout.at_model(spec_of(settings))] if named else await lookout.at_all()
        if not observers:
            raise ConfigError(f"{lookout.why_none()}; or give --model")
        await asyncio.gather(*(one.settle(settings.wait_seconds) for one in observers))
        first, *others = sorted(observers, key=_need)
        if not first.view:
            print(f"brigade plan: {await first.absence.explained()}", file=sys.stderr)
        plan = planned(first.view, first.spec.num_blocks, settings)
        return plan if named or not settings.explain else f"{_why(first, others)}\n\n{plan}"


def _need(observer: Observer) -> tuple[float, int, str]:
    return (*need(observer.view, observer.spec.num_blocks), observer.key)


def _why(first: Observer, others: Sequence[Observer]) -> str:
    """What model a newcomer takes who is told none."""
    why = f"{first.key}: {state_of(first.view, first.spec.num_blocks)}"
    return f"{why}; it needs help more than {few([one.key for one in others])}" if others else why


def planned(view: SwarmView, num_blocks: int, settings: PlanSettings) -> str:
    """What to print of a view."""
    seen = survey(view, num_blocks)
    speed = settings.speed or typical_speed(view)
    choice = choose_span(seen, settings.fits, speed, random.Random(0).random)
    return explain(seen, choice, speed) if settings.explain else str(choice.span)
