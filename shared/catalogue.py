"""What models a swarm has, and how each is hosted. Pure but for looking.

Workers are listed under topics that only who knows a model's revision can name. So each also puts
an entry into the swarm's catalogue, one topic for all, rarely and for long: for whoever comes
without a model, or with one that nobody here has.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from shared.discovery.directory import Directory
from shared.errors import RecordError
from shared.placement import survey
from shared.records import validate
from shared.swarm import Announcement, ModelSpec, PeerId, SwarmView, topic_of

ENTRY_SECONDS = 30.0
"""Time between two entries of a worker."""
LEASE_SECONDS = 90.0
MAX_NAMED = 5
"""Models named in one sentence: strangers may list any number."""
MAX_MODELS = 16
"""Models looked at: strangers may list any number."""

Catalogue = Mapping[str, SwarmView]
"""The workers of each MODEL@REVISION."""


def catalogue_topic(swarm: str) -> str:
    """Where entries are."""
    return topic_of(swarm, "", "")


def entry(announcement: Announcement) -> Announcement:
    """What a worker puts into the catalogue: what it announces, under another topic."""
    return msgspec.structs.replace(
        announcement,
        model="",
        revision="",
        entry_of=f"{announcement.model}@{announcement.revision}",
        lease_seconds=LEASE_SECONDS,
    )


async def read_catalogue(directory: Directory, swarm: str, *, now: float) -> Catalogue:
    """All entries there are. Raises PeerUnreachable when nobody can be asked."""
    topic = catalogue_topic(swarm)
    found: dict[str, dict[PeerId, Announcement]] = {}
    for read in await _announced(directory, topic, now):
        name, _, revision = read.entry_of.rpartition("@")
        if name and read.entry_of.isprintable() and not (read.leaving and read.next_span is None):
            read = msgspec.structs.replace(read, model=name, revision=revision)
            found.setdefault(read.entry_of, {})[read.worker] = read
    return found


async def read_workers(
    directory: Directory, swarm: str, catalogue: Catalogue, *, now: float
) -> Catalogue:
    """Who of these models is believed now: entries outlive the dead by most of a long lease.

    Some may have nobody left. Raises PeerUnreachable when nobody can be asked.
    """

    async def workers_of(key: str) -> SwarmView:
        name, _, revision = key.rpartition("@")
        topic = topic_of(swarm, name, revision)
        return {one.worker: one for one in await _announced(directory, topic, now)}

    views = await asyncio.gather(*map(workers_of, catalogue))
    return dict(zip(catalogue, views, strict=True))


def most_hosted(catalogue: Catalogue) -> Catalogue:
    """The models with the most entries, as many as are worth a look: strangers may list any."""
    keys = sorted(catalogue, key=lambda key: (-len(catalogue[key]), key))[:MAX_MODELS]
    return {key: catalogue[key] for key in keys}


def by_need(catalogue: Catalogue, workers: Catalogue) -> list[str]:
    """The models of a catalogue, by their workers the one that needs help most first.

    What nobody can use yet for want of a few blocks comes first, then what is slowest, and last
    what nobody hosts any more: it would need all of them.
    """
    sizes = {key: size_of(catalogue[key]) for key in catalogue}
    return sorted(sizes, key=lambda key: (not workers[key], *need(workers[key], sizes[key]), key))


def state_of(view: SwarmView, num_blocks: int) -> str:
    """How a model of so many blocks fares, in words."""
    throughput, num_bare = need(view, num_blocks)
    return f"nobody hosts {num_bare} of its blocks" if num_bare else f"{throughput:.1f} tokens/s"


def need(view: SwarmView, num_blocks: int) -> tuple[float, int]:
    """The tokens a second there are, and how many blocks nobody hosts: what is least needs most."""
    seen = survey(view, num_blocks)
    return seen.throughput, sum(level <= 0 for level in seen.levels)


def few(keys: Sequence[str]) -> str:
    """The first of these models, and how many more there are."""
    rest = len(keys) - MAX_NAMED
    return ", ".join(keys[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def spec_told(key: str, view: SwarmView) -> ModelSpec:
    """What its workers tell of MODEL@REVISION. How large its states are is not told: 0 here."""
    name, _, revision = key.rpartition("@")
    return ModelSpec(name, revision, size_of(view), hidden_size=0, vocab_size=0, max_positions=0)


def size_of(view: SwarmView) -> int:
    """How many blocks a model has, by what its workers say."""
    return max(worker.num_blocks for worker in view.values())


async def _announced(directory: Directory, topic: str, now: float) -> list[Announcement]:
    """What may be believed of what is found under a topic."""
    found: list[Announcement] = []
    for sighting in await directory.lookup(topic):
        with suppress(RecordError):  # a forgery says nothing
            found.append(validate(sighting.record, topic=topic, now=now))
    return found


def why_nobody(
    catalogue: Catalogue, *, swarm: str, model: str, revision: str, is_private: bool
) -> str:
    """Why no worker of a model is seen, as far as the catalogue tells, and what to compare."""
    wanted = f"{model}@{revision}"
    if wanted in catalogue:
        return f"{len(catalogue[wanted])} workers of {wanted} are coming or going"
    others = sorted(key.rpartition("@")[2] for key in catalogue if key.rpartition("@")[0] == model)
    if others:
        return (
            f"the workers of {model} have revision {', '.join(others[:3])}, not {revision}: config "
            "and tokenizer files must be the same here and there, or both name OWNER/NAME@REVISION"
        )
    if catalogue:
        names = few(sorted(catalogue))
        return f"swarm {swarm!r} hosts {names}, not {wanted}: compare --model and --model-name"
    return none_at_all(swarm, is_private=is_private)


def none_at_all(swarm: str, *, is_private: bool) -> str:
    """Why nobody in the swarm announces anything, and what to compare."""
    secret = "its secret is another" if is_private else "it is private, and there is no secret here"
    return (
        f"nobody announces any model in swarm {swarm!r}: there is no worker yet, or the swarm "
        f"is called otherwise (--swarm), or {secret} (--swarm-secret-file, BRIGADE_SWARM_SECRET)"
    )
