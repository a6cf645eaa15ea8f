"""What to think of it that gateways have dialled this machine, or have not. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from shared.findings import Finding, ok, warning
from shared.wire.messages import DialledBack

CHECK = "outside"
SERVES_ALL_THE_SAME = "a worker here is reached through gateways instead, a little slower"


@dataclass(frozen=True)
class Trial:
    """What came of gateways' attempts to dial `url`; None for each that did not answer."""

    url: str
    answers: Sequence[DialledBack | None]

    @property
    def outcomes(self) -> set[str]:
        """What the gateways say that answered."""
        return {answer.outcome for answer in self.answers if answer}

    @property
    def is_elsewhere(self) -> bool:
        """Whether gateways see this machine at another address, and so nobody was dialled."""
        return "elsewhere" in self.outcomes and not self.outcomes & {"reached", "unreached"}

    @property
    def seen_at(self) -> str:
        """Where a gateway sees this machine; "" where none says so."""
        return next((answer.seen_at for answer in self.answers if answer and answer.seen_at), "")


def of_trials(trials: Sequence[Trial], port: int, *, is_given: bool) -> Finding:
    """Whether gateways can dial a worker here.

    `port` is the one that was asked for, 0 where it may be any; `is_given` if an operator gave the
    first trial's address. A second trial is of the address that gateways see this machine at.
    """
    first, last = trials[0], trials[-1]
    if "reached" in first.outcomes:
        return ok(CHECK, f"a gateway has dialled {first.url} and got here")
    if "reached" in last.outcomes:
        return warning(
            CHECK,
            f"a gateway got here at {last.url}, but {first.url} would be announced",
            f"give {_as_options(last.url)}",
        )
    if "unreached" in first.outcomes:
        return warning(
            CHECK,
            f"a gateway has dialled {first.url} in vain; {SERVES_ALL_THE_SAME}",
            f"leave it so, or have firewall and router let in {_port(port)} to this machine",
        )
    if not first.is_elsewhere:
        return _unanswered(first)
    if is_given:
        return warning(
            CHECK,
            f"no gateway has dialled {first.url}: they dial where they see this machine and "
            f"nowhere else, and that is {first.seen_at or 'another address'}",
            f"try it from another machine: curl -k {_https(first.url)}/metrics",
        )
    return _behind_nat(first, last, port)


def _behind_nat(first: Trial, last: Trial, port: int) -> Finding:
    seen = f", and see {first.seen_at}" if first.seen_at else ""
    tried = f"; dialling {last.url} was in vain" if "unreached" in last.outcomes else ""
    is_known = port and last is not first
    outer = _as_options(last.url) if is_known else "--public-url with the outer address"
    return warning(
        CHECK,
        f"gateways do not see {first.url}{seen}: this machine is behind NAT{tried}; "
        f"{SERVES_ALL_THE_SAME}",
        f"leave it so, or have the router forward {_port(port)} to this machine, and give {outer}",
    )


def _unanswered(trial: Trial) -> Finding:
    asked = f"{len(trial.answers)} gateways that were asked to dial {trial.url}"
    if "busy" in trial.outcomes:
        return warning(CHECK, f"of {asked} none had time to", "look again in a minute")
    return warning(
        CHECK,
        f"of {asked} none answered: a worker here could not attach to them either",
        "let this machine dial out to any port, and see whether the gateways are up",
    )


def _as_options(url: str) -> str:
    """What has a worker announce an address that is forwarded to it as it is."""
    return f"--public-url {url}" + (" --tls on" if url.startswith("wss:") else "")


def _port(port: int) -> str:
    return f"TCP port {port}" if port else "a TCP port, and give it with --port,"


def _https(url: str) -> str:
    parts = urlsplit(url)
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
