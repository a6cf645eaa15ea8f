"""Chooses the workers a session runs through. Pure: the same knowledge gives the same route."""

from collections.abc import Collection, Iterable, Set
from typing import NamedTuple

import msgspec

from shared.costs import Offer, Prices
from shared.errors import NoRoute
from shared.roster import Roster
from shared.survey import NOTHING_KNOWN, Needs, Survey
from shared.swarm import Announcement, Hop, PeerId, Route, Span, uncovered
from shared.trellis import Ends, Plan, Trellis

NOBODY: frozenset[PeerId] = frozenset()
ONE_TOKEN = Needs()
AT_GATEWAY = Ends()


class Kept(NamedTuple):
    """Hops that still hold the first `tokens` of the prompt: a route of such saves running them."""

    hops: Collection[Hop]
    tokens: int


def plan_route(
    roster: Roster,
    span: Span,
    *,
    survey: Survey = NOTHING_KNOWN,
    needs: Needs = ONE_TOKEN,
    avoid: Set[PeerId] = NOBODY,
    ends: Ends = AT_GATEWAY,
    kept: Iterable[Kept] = (),
) -> Route:
    """The route through `span` that takes a session the least time.

    A worker's span may be used in part. Workers that lack the room are taken only where there is
    no route without them. Raises NoRoute, naming the uncovered blocks, when some block has no
    worker outside `avoid`.
    """
    prices = Prices(survey, needs)
    trellis = Trellis(prices, span, ends)
    plans = [_through_kept(part, roster, span, survey, needs, avoid, ends) for part in kept]
    for need_room in (True, False):
        offers = roster.shortlist(
            prices, span, avoid=avoid, trusted=ends.trusted, need_room=need_room
        )
        plans.append(trellis.cheapest(offers))
        if found := [plan for plan in plans if plan]:
            return min(found, key=lambda plan: plan.seconds).route
    raise NoRoute(_why_none(roster.usable(span, avoid), span, ends))


def _through_kept(
    kept: Kept,
    roster: Roster,
    span: Span,
    survey: Survey,
    needs: Needs,
    avoid: Set[PeerId],
    ends: Ends,
) -> Plan | None:
    """The cheapest plan through hops that hold a part of the prompt, each of them as it is."""
    left = max(0, needs.prompt_tokens - kept.tokens)
    prices = Prices(survey, msgspec.structs.replace(needs, prompt_tokens=left))
    offers: list[Offer] = []
    for hop in sorted(kept.hops, key=lambda hop: (hop.span, hop.worker)):
        announced = roster.get(hop.worker)
        if hop.worker in avoid or announced is None:
            continue
        if announced.span.covers(hop.span) and span.covers(hop.span):
            offers += [prices.offer(announced, hop.span, ends.trusted)]
    return Trellis(prices, span, ends, whole=True).cheapest(offers)


def _why_none(usable: Collection[Announcement], span: Span, ends: Ends) -> str:
    if gaps := uncovered((worker.span for worker in usable), span):
        return f"no worker serves blocks {', '.join(map(str, gaps))} of the model at the moment"
    trusted = ends.trusted or NOBODY
    at_ends = ((span.start, ends.before), (span.end - 1, ends.after))
    missing = [
        str(block)
        for block, neighbour in at_ends
        if neighbour is None
        and not any(w.worker in trusted and w.span.start <= block < w.span.end for w in usable)
    ]
    return (
        f"no trusted worker serves block {' nor '.join(missing)} of the model at the moment, "
        "and others must not see tokens"
    )
