"""The position rule, epochs, pages and leases."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import StepRefused
from shared.swarm import Hop, PeerId, SessionId, Span
from shared.wire.messages import Step
from worker import sessions as sessions_module
from worker.sessions import Sessions

ME, ANN, BOB = PeerId("me"), PeerId("ann"), PeerId("bob")
HOSTED = Span(0, 8)


def sessions(*, pages: int = 10, max_sessions: int = 6) -> Sessions:
    """Ten pages of four tokens; leases of 100 seconds."""
    return Sessions(
        HOSTED, pages_total=pages, page_tokens=4, max_sessions=max_sessions, lease_seconds=100.0
    )


def sid(number: int = 0) -> SessionId:
    return SessionId(bytes([number]) * 16)


def step(
    position: int,
    count: int = 1,
    *,
    session: int = 0,
    epoch: int = 0,
    gateway: PeerId = ANN,
    span: Span = HOSTED,
) -> Step:
    return Step(sid(session), epoch, gateway, position, count, (Hop(ME, span),), "int32")


def refusal(act: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(StepRefused) as refused:
        act()
    return refused.value.reason, refused.value.cached


def snapshot(s: Sessions) -> tuple[object, ...]:
    return s.pages_free, len(s), {k: (p.epoch, p.length, p.pages) for k, p in s._parts.items()}


def test_a_step_where_the_cache_ends_extends_it():
    s = sessions()
    for position, count in [(0, 5), (5, 1), (6, 3)]:
        part = s.admit(step(position, count), 0.0)
        assert part is not None
        assert part.length == position + count


def test_a_step_before_the_cache_s_end_rewinds_to_it():
    s = sessions()
    s.admit(step(0, 9), 0.0)
    part = s.admit(step(4, 2), 0.0)
    assert part is not None
    assert part.length == 6


def test_a_step_beyond_the_cache_is_refused_with_the_cache_s_length():
    s = sessions()
    assert refusal(lambda: s.admit(step(1), 0.0)) == ("position_gap", 0)
    s.admit(step(0, 5), 0.0)
    assert refusal(lambda: s.admit(step(6), 0.0)) == ("position_gap", 5)


def test_a_repeated_step_costs_nothing():
    s = sessions()
    s.admit(step(0, 5), 0.0)
    before = snapshot(s)
    s.admit(step(0, 5), 0.0)
    assert snapshot(s) == before


def test_a_step_of_a_route_the_session_has_left_is_dropped():
    s = sessions()
    s.admit(step(0, 5, epoch=2), 0.0)
    assert s.admit(step(5, epoch=1), 0.0) is None
    assert s.admit(step(5, epoch=2), 0.0) is not None
    assert s.admit(step(6, epoch=3), 0.0) is not None
    assert s.admit(step(7, epoch=2), 0.0) is None


def test_pages_are_taken_as_tokens_come_with_some_to_spare():
    s = sessions(pages=20)
    s.admit(step(0, 9), 0.0)
    assert s.pages_free == 17
    s.admit(step(9, 3), 0.0)
    assert s.pages_free == 17
    s.admit(step(12), 0.0)
    assert s.pages_free == 16
    s.admit(step(13, 12), 0.0)
    assert s.pages_free == 13
    s.admit(step(25, 4), 0.0)
    assert s.pages_free == 10  # needs one more, takes half as many again


def test_the_spare_pages_are_only_taken_while_there_are_any():
    s = sessions()
    s.admit(step(0, 32), 0.0)
    s.admit(step(32, 8), 0.0)
    assert s.pages_free == 0


def test_without_pages_a_step_is_refused_and_nothing_of_it_stays():
    s = sessions()
    s.admit(step(0, 30), 0.0)
    before = snapshot(s)
    assert refusal(lambda: s.admit(step(0, 9, session=1), 0.0)) == ("no_pages", 0)
    assert refusal(lambda: s.admit(step(30, 20, epoch=7), 0.0)) == ("no_pages", 0)
    assert snapshot(s) == before


def test_pages_that_nobody_owes_are_not_taken_from_anybody():
    s = sessions()
    s.pages_free = 0  # as when something other than sessions has taken the memory
    assert refusal(lambda: s.admit(step(0, 4), 0.0)) == ("no_pages", 0)
    assert len(s) == 0


def test_a_session_is_its_gateway_s_alone():
    s = sessions()
    s.admit(step(0, 5), 0.0)
    assert refusal(lambda: s.admit(step(5, gateway=BOB, epoch=9), 0.0))[0] == "bad_step"
    assert s.close(sid(), BOB) == []
    assert s.close(sid(), ANN) == [(sid(), HOSTED)]
    assert (len(s), s.pages_free) == (0, 10)
    assert s.close(sid(), ANN) == []


def test_blocks_hosted_elsewhere_are_refused():
    assert refusal(lambda: sessions().admit(step(0, span=Span(4, 9)), 0.0))[0] == "bad_step"


def test_a_session_may_have_two_parts_here_with_positions_of_their_own():
    s = sessions(max_sessions=1)
    first, second = Span(0, 4), Span(4, 8)
    s.admit(step(0, 5, span=first), 0.0)
    assert refusal(lambda: s.admit(step(5, span=second), 0.0)) == ("position_gap", 0)
    s.admit(step(0, 5, span=second), 0.0)
    assert len(s) == 1
    assert set(s.close(sid(), ANN)) == {(sid(), first), (sid(), second)}
    assert s.pages_free == 10


def test_sessions_beyond_the_limit_are_refused_and_known_ones_go_on():
    s = sessions(max_sessions=2)
    s.admit(step(0, session=1), 0.0)
    s.admit(step(0, session=2), 0.0)
    assert refusal(lambda: s.admit(step(0, session=3), 0.0))[0] == "no_pages"
    assert s.admit(step(1, session=1), 0.0) is not None
    s.close(sid(2), ANN)
    assert s.admit(step(0, session=3), 0.0) is not None


def test_a_draining_worker_takes_no_new_session_and_serves_the_old():
    s = sessions()
    s.admit(step(0), 0.0)
    s.is_draining = True
    assert refusal(lambda: s.admit(step(0, session=1), 0.0))[0] == "draining"
    assert s.admit(step(1), 0.0) is not None


def test_a_part_ends_a_lease_after_its_last_step():
    s = sessions()
    s.admit(step(0), 0.0)
    s.admit(step(1), 50.0)
    assert s.expire(149.9) == []
    assert s.expire(150.0) == [(sid(), HOSTED)]
    assert (len(s), s.pages_free) == (0, 10)


def test_a_refused_step_renews_no_lease():
    s = sessions()
    s.admit(step(0), 0.0)
    refusal(lambda: s.admit(step(9), 50.0))
    assert s.expire(100.0) != []


def test_a_vanished_gateway_s_sessions_end_early_unless_it_comes_back():
    s = sessions()
    for session, gateway in [(1, ANN), (2, ANN), (3, BOB)]:
        s.admit(step(0, session=session, gateway=gateway), 0.0)
    s.orphan(ANN, 30.0)
    s.admit(step(1, session=2), 10.0)
    assert s.expire(30.0) == [(sid(1), HOSTED)]


def test_an_orphan_s_lease_is_never_made_longer():
    s = sessions()
    s.admit(step(0), 0.0)
    s.orphan(ANN, 1000.0)
    assert s.expire(100.0) != []


def test_a_forgotten_part_starts_anew():
    s = sessions()
    s.admit(step(0, 5, epoch=3), 0.0)
    assert s.forget((sid(), HOSTED)) == 3
    assert s.forget((sid(), HOSTED)) == 0
    assert s.pages_free == 10
    assert refusal(lambda: s.admit(step(5, epoch=3), 0.0)) == ("position_gap", 0)


numbers = st.integers(0, 2)
spans = st.sampled_from([Span(0, 8), Span(0, 4), Span(4, 8), Span(7, 9)])
gateways = st.sampled_from([ANN, BOB])
events = st.one_of(
    st.tuples(
        st.just("admit"), numbers, st.integers(0, 30), st.integers(1, 30), numbers, gateways, spans
    ),
    st.tuples(st.just("close"), numbers, gateways),
    st.tuples(st.just("expire"), st.integers(0, 300)),
    st.tuples(st.just("orphan"), gateways, st.integers(0, 300)),
    st.tuples(st.just("forget"), numbers, spans),
)


@given(st.lists(events, max_size=40))
def test_pages_are_conserved_whatever_happens(happenings: list[tuple[object, ...]]):
    s = sessions(max_sessions=2)
    for now, happening in enumerate(happenings):
        before = snapshot(s)
        match happening:
            case ("admit", int(n), int(position), int(count), int(epoch), gateway, Span() as span):
                one = step(position, count, session=n, epoch=epoch, gateway=gateway, span=span)  # type: ignore[arg-type]
                try:
                    part = s.admit(one, now)
                except StepRefused:
                    assert snapshot(s) == before
                else:
                    assert part is None or (part.length, part.epoch) == (position + count, epoch)
                    assert part is not None or snapshot(s) == before
            case ("close", int(n), gateway):
                s.close(sid(n), gateway)  # type: ignore[arg-type]
            case ("expire", int(later)):
                s.expire(later)
            case ("orphan", gateway, int(deadline)):
                s.orphan(gateway, deadline)  # type: ignore[arg-type]
            case ("forget", int(n), Span() as span):
                s.forget((sid(n), span))
        parts = s._parts.values()
        assert s.pages_free >= 0
        assert s.pages_free + sum(part.pages for part in parts) == s.pages_total
        assert all(part.pages * 4 >= part.length > 0 for part in parts)
        assert len(s) <= 2


def test_a_step_that_was_overtaken_by_its_sessions_close_opens_nothing():
    s = sessions()
    s.close(sid(), ANN)
    assert s.admit(step(0, 4), 0.0) is None
    assert s.admit(step(0, 4, gateway=BOB), 0.0) is not None
    s.close(sid(), BOB)
    assert len(s) == 0


def test_a_newcomer_s_pages_are_taken_from_whoever_has_more_than_its_share():
    s = sessions()
    for number in range(5):
        s.admit(step(0, 8, session=number), float(number))  # two pages each
    assert s.admit(step(0, 20, session=9, gateway=BOB), 9.0) is not None
    assert [key[0] for key, _ in s.take_revoked()] == [sid(0), sid(1), sid(2)]
    assert s.take_revoked() == []
    assert (
        refusal(lambda: s.admit(step(20, session=9, gateway=BOB, count=8), 10.0))[0] == "no_pages"
    )
    assert s.take_revoked() == []


def test_one_gateway_s_closes_do_not_make_another_s_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions_module, "MAX_CLOSED", 10)
    s = sessions()
    s.close(sid(0), ANN)
    for number in range(1, 50):
        s.close(sid(number), BOB)
    assert s.is_closed(sid(0), ANN, 5)
    assert not s.is_closed(sid(1), BOB, 5)
    assert s.is_closed(sid(49), BOB, 5)
