"""Whether others can dial this worker, by what gateways say that tried. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shared.wire.messages import DialOutcome

Attach = Literal["auto", "on", "off"]
"""Whether to attach to gateways: if nobody can dial this worker, always, or never."""


@dataclass(frozen=True)
class Verdict:
    """How others are to reach a worker, and why so. One that `is_sure` stands until proven wrong;
    else it is worth another look as soon as anybody can be asked."""

    is_direct: bool
    is_sure: bool
    why: str


def as_told(attach: Attach, url: str, *, is_alone: bool) -> Verdict | None:
    """What needs no asking; `is_alone` where the swarm is on this machine only."""
    if attach == "on":
        return Verdict(False, True, "it attaches to gateways, as --attach on says")
    if attach == "off":
        return Verdict(True, True, f"it is announced at {url}, as --attach off says")
    if is_alone:
        return Verdict(True, True, f"it is announced at {url}: the swarm is on this machine")
    return None


def judged(url: str, *, is_given: bool, outcomes: Sequence[DialOutcome]) -> Verdict:
    """What to make of gateways' attempts to dial `url`, which an operator may have given.

    One that got through is enough: others may be busy, or behind walls of their own.
    """
    if "reached" in outcomes:
        return Verdict(True, True, f"a gateway has dialled it at {url}")
    if "unreached" in outcomes:
        return Verdict(False, True, f"a gateway has dialled {url} in vain: it attaches to gateways")
    if "elsewhere" in outcomes and is_given:
        why = f"it is announced at {url} as it is: no gateway dials another address than ours"
        return Verdict(True, True, why)
    if "elsewhere" in outcomes:
        why = f"{url} is not where its links come from, it is behind NAT: it attaches to gateways"
        return Verdict(False, True, why)
    why = f"it is announced at {url} as it is: no gateway has tried whether it can be dialled"
    return Verdict(True, False, why)
