"""What a gateway knows of its workers' loads."""

from typing import Any

from gateway.surveyor import Surveyor
from shared.survey import Load
from shared.swarm import PeerId, SessionId
from shared.wire.messages import Neighbour, Status
from tests.shared.announcing import announcement

ANN, BOB = PeerId("ann"), PeerId("bob")
ONE, TWO = SessionId(b"1" * 16), SessionId(b"2" * 16)
VIEW = {worker: announcement(worker=worker, max_tokens=1000) for worker in (ANN, BOB)}


def status(sessions: int, **more: Any) -> Status:
    return Status(sessions, queued_steps=0, pages_free=5, pages_total=10, **more)


def loads(surveyor: Surveyor) -> dict[PeerId, Load]:
    return dict(surveyor.survey(VIEW, {}).loads)


def sessions(surveyor: Surveyor) -> dict[PeerId, int]:
    return {worker: load.sessions for worker, load in loads(surveyor).items()}


def test_own_sessions_count_from_the_moment_they_begin():
    surveyor = Surveyor()
    surveyor.engaged(ONE, {ANN, BOB})
    surveyor.engaged(TWO, {ANN})
    assert sessions(surveyor) == {ANN: 2, BOB: 1}
    surveyor.heard(ANN, status(2))
    assert sessions(surveyor) == {ANN: 2, BOB: 1}


def test_what_a_worker_has_beyond_them_is_others():
    surveyor = Surveyor()
    surveyor.engaged(ONE, {ANN})
    surveyor.heard(ANN, status(4))
    surveyor.engaged(TWO, {ANN})
    assert sessions(surveyor) == {ANN: 5}
    surveyor.engaged(ONE, ())
    surveyor.engaged(TWO, ())
    assert sessions(surveyor) == {ANN: 3}


def test_a_session_that_moves_counts_only_where_it_is():
    surveyor = Surveyor()
    surveyor.engaged(ONE, {ANN})
    surveyor.engaged(ONE, {BOB})
    assert sessions(surveyor) == {BOB: 1}
    surveyor.engaged(ONE, ())
    assert sessions(surveyor) == {}


def test_room_is_the_share_of_pages_that_is_free():
    surveyor = Surveyor()
    surveyor.heard(ANN, status(0, queued_tokens=7, busy=0.5, bytes_per_second=1e6))
    assert loads(surveyor) == {ANN: Load(0, 7, 0.5, room_tokens=500, bytes_per_second=1e6)}
    silent = {ANN: announcement(worker=ANN, max_tokens=0)}
    assert surveyor.survey(silent, {}).loads[ANN].room_tokens is None


def test_delays_between_workers_last_from_one_telling_to_the_next():
    surveyor = Surveyor()
    surveyor.heard(ANN, status(0, neighbours=(Neighbour(BOB, 0.02),)))
    surveyor.heard(ANN, status(1))
    survey = surveyor.survey(VIEW, {ANN: 0.1})
    assert (survey.between, survey.delays) == ({ANN: {BOB: 0.02}}, {ANN: 0.1})


def test_a_worker_that_is_gone_has_said_nothing():
    surveyor = Surveyor()
    surveyor.heard(ANN, status(3, neighbours=(Neighbour(BOB, 0.02),)))
    surveyor.lost(ANN)
    assert (sessions(surveyor), surveyor.survey(VIEW, {}).between) == ({}, {})
    assert ANN not in surveyor.statuses
