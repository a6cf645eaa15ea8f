"""What a gateway knows of the swarm's ways and loads, for those who choose routes. Pure.

A burst of requests comes faster than workers can tell of it, so the gateway's own sessions are
counted as they begin; what a worker says beyond them is taken for the work of other gateways.
"""

from collections import Counter
from collections.abc import Collection, Mapping

from msgspec.structs import replace

from shared.survey import Delays, Load, Survey
from shared.swarm import PeerId, Route, SessionId, SwarmView
from shared.wire.messages import Status


class Surveyor:
    """Keeps what workers tell, and counts what they are asked to do."""

    def __init__(self) -> None:
        self._statuses: dict[PeerId, Status] = {}
        self._others: dict[PeerId, int] = {}
        self._own: Counter[PeerId] = Counter()
        self._workers: dict[SessionId, frozenset[PeerId]] = {}
        self._between: dict[PeerId, Delays] = {}

    @property
    def statuses(self) -> Mapping[PeerId, Status]:
        """What linked workers last said of themselves."""
        return self._statuses

    def busy_seconds(self, route: Route) -> float:
        """How long a route's workers may be busy with others' work."""
        told = [self._statuses[hop.worker] for hop in route if hop.worker in self._statuses]
        return sum(status.slowest_seconds for status in told)

    def heard(self, worker: PeerId, status: Status) -> None:
        """A worker said how it does."""
        self._statuses[worker] = replace(status, neighbours=())
        self._others[worker] = max(0, status.sessions - self._own[worker])
        if status.neighbours:
            self._between[worker] = {n.worker: n.delay_seconds for n in status.neighbours}

    def lost(self, worker: PeerId) -> None:
        """The link to a worker is gone: what it said is worth nothing any more."""
        for told in (self._statuses, self._others, self._between):
            told.pop(worker, None)

    def engaged(self, session: SessionId, workers: Collection[PeerId]) -> None:
        """A session runs on these workers, and on no others; on none once it is over."""
        before = self._workers.pop(session, frozenset())
        if workers:
            self._workers[session] = frozenset(workers)
        self._own.update(workers)
        self._own.subtract(before)
        self._own = +self._own  # without those that are down to none

    def are_engaged(self, session: SessionId, workers: Collection[PeerId]) -> bool:
        """Whether a session runs on all of these workers."""
        return self._workers.get(session, frozenset()).issuperset(workers)

    def survey(self, view: SwarmView, delays: Delays) -> Survey:
        """All that is known, given the workers there are and how far they are."""
        known = (self._statuses.keys() | self._own.keys()) & view.keys()
        return Survey(
            delays=delays,
            between=self._between,
            loads={worker: self._load(worker, view[worker].max_tokens) for worker in known},
        )

    def _load(self, worker: PeerId, max_tokens: int) -> Load:
        load = Load(sessions=self._own[worker] + self._others.get(worker, 0))
        status = self._statuses.get(worker)
        if status is None:
            return load
        room = max_tokens * status.pages_free // status.pages_total if status.pages_total else 0
        return replace(
            load,
            queued_tokens=status.queued_tokens,
            busy=status.busy,
            room_tokens=room if max_tokens else None,
            bytes_per_second=status.bytes_per_second,
        )
