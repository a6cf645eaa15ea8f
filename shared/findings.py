"""What `brigade doctor` concludes from what it measured. Pure."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from shared.records import MAX_CLOCK_SKEW_SECONDS
from shared.swarm import Announcement

Level = Literal["ok", "warning", "problem"]
GIB = 1 << 30
LEAST_CACHE_BYTES = 1 * GIB
GOOD_CACHE_BYTES = 20 * GIB
"""A few blocks of a 70B model in bfloat16; one of them is 1.7 GB."""
NOTABLE_SKEW_SECONDS = 30.0


@dataclass(frozen=True)
class Finding:
    """One line of the report. What is not ok has a remedy."""

    check: str
    level: Level
    says: str
    remedy: str = ""


def ok(check: str, says: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", says)


def warning(check: str, says: str, remedy: str) -> Finding:
    """It works, though perhaps not for everybody or not for long."""
    return Finding(check, "warning", says, remedy)


def problem(check: str, says: str, remedy: str) -> Finding:
    """It will not work until this is mended."""
    return Finding(check, "problem", says, remedy)


def of_python(version: str, required: str) -> Finding:
    """Whether this Python is one the package was made for."""
    if version in SpecifierSet(required):
        return ok("python", version)
    return problem(
        "python", f"{version} is not {required}", "make a virtual environment of another"
    )


def of_requirements(
    requirements: Iterable[str], extra: str, installed: dict[str, str | None]
) -> list[Finding]:
    """Whether what the package and one of its extras need is there, in versions it takes.

    `installed` is the version of each package by name, None where it is missing.
    """
    wanted = [one for text in requirements if (one := _applies(text, extra))]
    wrong = [found for one in wanted if (found := _unmet(one, installed.get(one.name)))]
    if wrong:
        package = f"bucket-brigade[{extra}]" if extra else "bucket-brigade"
        remedy = f"pip install --upgrade '{package}'"
        return [problem("packages", says, remedy) for says in wrong]
    return [ok("packages", f"all {len(wanted)} are there, in versions that fit")]


def _applies(text: str, extra: str) -> Requirement | None:
    requirement = Requirement(text)
    marker = requirement.marker
    return requirement if marker is None or marker.evaluate({"extra": extra}) else None


def _unmet(requirement: Requirement, version: str | None) -> str:
    if version is None:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is not {requirement.specifier}"


def of_address(host: str, addresses: Sequence[str], option: str) -> Finding:
    """Who can dial the host that is announced; `addresses` is what its name resolves to."""
    check = "address"
    named = host if host in addresses else f"{host} ({', '.join(addresses)})"
    if not addresses:
        return problem(check, f"the name {host} does not resolve", f"correct {option}, or the DNS")
    kinds = [ip_address(address.partition("%")[0]) for address in addresses]
    if any(kind.is_loopback or kind.is_unspecified for kind in kinds):
        return warning(
            check,
            f"{named} is announced: processes on this machine alone can dial it",
            f"for a swarm of several machines: --host 0.0.0.0, and {option} if others see this "
            "machine at another address",
        )
    if any(not kind.is_global for kind in kinds):
        return warning(
            check,
            f"{named} is announced, a private address: this machine is behind NAT, and only its "
            "own network can dial it",
            f"for workers elsewhere forward the port on the router and give {option} with the "
            "outer address",
        )
    return ok(check, f"{named} is announced, a public address")


def of_skew(seconds: float | None, source: str) -> Finding:
    """What to think of a clock that is so far ahead of `source`; None when nothing could tell."""
    if seconds is None:
        return warning(
            "clock",
            "cannot be known: no worker of the swarm and no time server could be asked",
            "give --join of a swarm that has workers, or compare it by hand: `date -u`",
        )
    way = "ahead of" if seconds > 0 else "behind"
    says = f"{abs(seconds):.1f} s {way} {source}"
    if abs(seconds) >= MAX_CLOCK_SKEW_SECONDS:
        says += f"; over {MAX_CLOCK_SKEW_SECONDS:.0f} s nobody believes what this machine announces"
        return problem("clock", says, "set it: timedatectl set-ntp true")
    if abs(seconds) >= NOTABLE_SKEW_SECONDS:
        says += f"; at {MAX_CLOCK_SKEW_SECONDS:.0f} s nobody would believe this machine any more"
        return warning("clock", says, "set it: timedatectl set-ntp true")
    return ok("clock", says)


def skew_of(sightings: Iterable[tuple[Announcement, float]], now: float) -> float | None:
    """How far our clock is ahead of the swarm's, in seconds.

    Each announcement comes with the seconds its holder still believes it, so its age is known
    without any clock of ours. The median, as any one worker's clock may be wrong.
    """
    ahead = [
        now - (worker.issued_at + worker.lease_seconds - remaining)
        for worker, remaining in sightings
    ]
    return statistics.median(ahead) if ahead else None


def of_disk(path: str, free_bytes: int, *, is_writable: bool) -> Finding:
    """Whether the cache of models has room."""
    says = f"{free_bytes / GIB:.1f} GiB free for models in {path}"
    if not is_writable:
        return problem("disk", f"{path} cannot be written to", "set HF_HOME to a folder that can")
    if free_bytes < LEAST_CACHE_BYTES:
        return problem("disk", says, "make room, or set HF_HOME to a folder on a larger disk")
    if free_bytes < GOOD_CACHE_BYTES:
        return warning("disk", says, "enough for a few blocks; HF_HOME names another folder")
    return ok("disk", says)


def of_members(address: str, num_known: int) -> Finding:
    """Whether a node of the swarm answered when it was dialled."""
    if num_known:
        return ok("join", f"{address} answers")
    return problem(
        "join",
        f"{address} does not answer",
        "see whether that node runs, its port is open, and the peer id at the end is still its "
        "own; a name must be in the DNS, as /etc/hosts is not looked at",
    )


def of_secret(problem_with_it: str, *, is_private: bool) -> Finding:
    """Whether the swarm's secret can be used, if there is one."""
    if problem_with_it:
        remedy = "correct --swarm-secret-file or BRIGADE_SWARM_SECRET"
        return problem("secret", problem_with_it, remedy)
    return ok(
        "secret", "there is one: the swarm is private" if is_private else "none: anybody may join"
    )


def of_workers(reached: int, unreached: Sequence[str], hint: str = "") -> Finding:
    """Whether the swarm's workers can be dialled from here, as neighbours on a route must be.

    `hint` says why there may be none.
    """
    total = reached + len(unreached)
    if not total:
        return warning(
            "workers",
            hint or "none is announced for this model under this swarm's name",
            "compare --swarm, --model and --model-name with those of others, unless this is the "
            "first worker",
        )
    if not unreached:
        whoever = f"all {total} that were tried" if total > 1 else "the only one"
        return ok("workers", f"{whoever} can be dialled from here")
    says = f"{len(unreached)} of {total} cannot be dialled from here: {', '.join(unreached[:3])}"
    remedy = "let this machine dial out to any port; the others may be behind NAT or gone"
    return warning("workers", says, remedy) if reached else problem("workers", says, remedy)


def of_attached(num: int) -> list[Finding]:
    """Of workers that are reached through the gateways they are attached to."""
    return [ok("attached", f"{num} that nobody can dial, through gateways")] if num else []


def of_gateways(num: int) -> Finding:
    """Whether a worker here could serve though nobody can dial it."""
    if num:
        return ok(
            "attach",
            f"{num} of the swarm's gateways try to dial a worker when it starts; if they cannot, "
            "it attaches to them and is reached through them",
        )
    return warning(
        "attach",
        "no gateway of the swarm tries whether a worker can be dialled, nor takes one that cannot",
        "behind NAT: forward the port, or have a gateway started with --attach-host",
    )


def of_files(limit: int, *, wanted: int) -> Finding:
    """Whether enough sockets may be open at a time."""
    if limit >= wanted:
        return ok("open files", f"{limit} allowed")
    return warning("open files", f"{limit} allowed, {wanted} are better", f"ulimit -n {wanted}")


def exit_code(findings: Iterable[Finding]) -> int:
    """1 when anything is a problem."""
    return int(any(finding.level == "problem" for finding in findings))
