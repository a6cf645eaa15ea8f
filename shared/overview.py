"""A swarm at one instant, as people and scripts are told of it. Pure.

It has the form of a gateway's /swarm, so that one is read and the other made the same way.
"""

from collections.abc import Callable, Iterable

import msgspec

from shared.errors import ProtocolError
from shared.swarm import MAX_BLOCKS, Announcement, ModelSpec, PeerId, Span, SwarmView, uncovered


class Load(msgspec.Struct, frozen=True):
    """What a worker last said of its load, to a gateway."""

    sessions: int = 0
    queued_steps: int = 0
    pages_free: int = 0
    pages_total: int = 0
    decode_seconds: float = 0.0


class WorkerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One worker. `status` is known to gateways only, through their links."""

    peer_id: str
    start: int
    end: int
    url: str = ""
    dtype: str = ""
    lease_seconds_left: float = 0.0
    leaving: bool = False
    next_span: str = ""
    """What it is about to host, or thinks of hosting; its own span while that is loaded."""
    linked: bool = False
    tokens_per_second: float = 0.0
    status: Load | None = None
    attached: tuple[str, ...] = ()
    """The gateways it is attached to, which alone can use it; none if others can dial it."""

    elsewhere: bool = False
    """Whether the gateway that tells of it is none of those."""

    @property
    def speed(self) -> float:
        """Decode steps a second through its span; 0 when nobody has measured it."""
        if self.status and self.status.decode_seconds > 0:
            return 1 / self.status.decode_seconds
        return self.tokens_per_second


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Who hosts what of one model. A worker that is leaving covers nothing."""

    model: str
    revision: str
    num_blocks: int
    workers: tuple[WorkerLine, ...]
    coverage: tuple[int, ...]
    uncovered: tuple[str, ...]
    complete: bool
    hint: str = ""
    """Why there are no workers, if there are none and that is known."""
    models: tuple[str, ...] = ()
    """All that a gateway serves, this one among them; none where nobody says so."""


def of_view(spec: ModelSpec, view: SwarmView, *, expires_in: Callable[[PeerId], float]) -> Overview:
    """The overview an observer has; `expires_in` is what is left of a worker's lease."""
    staying = [worker.span for worker in view.values() if not worker.leaving]
    gaps = uncovered(staying, spec.blocks)
    ordered = sorted(view.values(), key=lambda worker: (worker.span, worker.worker))
    return Overview(
        model=spec.name,
        revision=spec.revision,
        num_blocks=spec.num_blocks,
        workers=tuple(_line(worker, expires_in(worker.worker)) for worker in ordered),
        coverage=tuple(coverage(staying, spec.num_blocks)),
        uncovered=tuple(str(gap) for gap in gaps),
        complete=not gaps,
    )


def of_nothing(hint: str) -> Overview:
    """The overview of a swarm in which there is no model."""
    return Overview(
        model="",
        revision="",
        num_blocks=0,
        workers=(),
        coverage=(),
        uncovered=(),
        complete=False,
        hint=hint,
    )


def of_snapshot(body: bytes) -> Overview:
    """The overview in a gateway's /swarm. Raises ProtocolError when it is none."""
    try:
        overview = msgspec.json.decode(body, type=Overview)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"what it says of its swarm does not read: {error}") from error
    if len(overview.coverage) != overview.num_blocks or overview.num_blocks > MAX_BLOCKS:
        raise ProtocolError(
            f"it tells of {len(overview.coverage)} blocks of a model of {overview.num_blocks}"
        )
    return overview


def coverage(spans: Iterable[Span], num_blocks: int) -> list[int]:
    """How many spans hold each block."""
    counts = [0] * num_blocks
    for span in spans:
        for block in range(span.start, min(span.end, num_blocks)):
            counts[block] += 1
    return counts


def stretches(counts: Iterable[int]) -> list[tuple[Span, int]]:
    """The coverage as spans of equal count, in order."""
    found: list[tuple[Span, int]] = []
    for block, count in enumerate(counts):
        if found and found[-1][1] == count:
            found[-1] = (Span(found[-1][0].start, block + 1), count)
        else:
            found.append((Span(block, block + 1), count))
    return found


def _line(worker: Announcement, seconds_left: float) -> WorkerLine:
    return WorkerLine(
        peer_id=worker.worker,
        start=worker.span.start,
        end=worker.span.end,
        url=worker.url,
        dtype=worker.dtype,
        lease_seconds_left=round(seconds_left, 1),
        leaving=worker.leaving,
        next_span=str(worker.next_span or ""),
        tokens_per_second=round(worker.tokens_per_second, 3),
        attached=worker.attached,
    )
