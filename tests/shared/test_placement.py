"""Which blocks a worker takes, and when it moves."""

import random
from typing import Any

import pytest

from shared.pace import BATCHES, Pace
from shared.placement import PATIENCE_SECONDS, choose_span, should_move, survey
from shared.swarm import Announcement, PeerId, Span, SwarmView, uncovered

NUM_BLOCKS = 24
ANN, BOB, CYD, DEE = (PeerId(name) for name in ("ann", "bob", "cyd", "dee"))


def worker(name: PeerId, span: str, *, speed: float = 100.0, **changes: Any) -> Announcement:
    seconds = BATCHES[-1] / speed
    values: dict[str, Any] = {
        "worker": name,
        "swarm": "s",
        "model": "m",
        "revision": "r",
        "span": Span.parse(span),
        "num_blocks": NUM_BLOCKS,
        "url": "ws://192.0.2.1:1",
        "dtype": "float32",
        "sequence": 1,
        "issued_at": 0.0,
        "lease_seconds": 12.0,
        "pace": Pace((seconds, seconds, seconds)),
        "fits": len(Span.parse(span)),
    }
    return Announcement(**values | changes)


def view(*workers: Announcement) -> SwarmView:
    return {one.worker: one for one in workers}


def chosen(seen: SwarmView, size: int, *, speed: float = 100.0, chance: float = 0.0) -> Span:
    return choose_span(survey(seen, NUM_BLOCKS), size, speed, lambda: chance).span


def moved(seen: SwarmView, name: PeerId, **options: Any):
    move = should_move(survey(seen, NUM_BLOCKS, before=name), name, **options)
    return move and move.span


def test_the_first_takes_an_end_of_the_model_by_chance():
    assert {chosen({}, 8, chance=0.0), chosen({}, 8, chance=0.99)} == {Span(0, 8), Span(16, 24)}


def test_one_with_room_for_everything_takes_everything():
    assert chosen({}, 99) == Span(0, 24)


def test_what_nobody_hosts_comes_first():
    seen = view(worker(ANN, "0:8", speed=1), worker(BOB, "14:24", speed=1))
    assert chosen(seen, 6) == Span(8, 14)


def test_a_hole_too_large_for_one_is_begun_at_an_edge():
    seen = view(worker(ANN, "0:4"), worker(BOB, "20:24"))
    assert chosen(seen, 8) in (Span(4, 12), Span(12, 20))


def test_with_all_covered_the_slowest_span_gets_help():
    seen = view(worker(ANN, "0:8"), worker(BOB, "8:16", speed=20), worker(CYD, "16:24"))
    assert chosen(seen, 8) == Span(8, 16)


def test_newcomers_one_after_another_cover_the_model_and_then_double_it():
    chance = random.Random(1)
    seen: dict[PeerId, Announcement] = {}
    for index in range(8):
        choice = choose_span(survey(seen, NUM_BLOCKS), 6, 100.0, chance.random)
        name = PeerId(f"w{index}")
        seen[name] = worker(name, str(choice.span))
        if index in (3, 7):
            depth = [
                sum(one.span.covers(Span(b, b + 1)) for one in seen.values()) for b in range(24)
            ]
            assert min(depth) == (index + 1) // 4


def test_a_span_that_another_is_about_to_host_counts_as_hosted():
    coming = worker(BOB, "8:16", leaving=True, next_span=Span(8, 16))
    assert chosen(view(worker(ANN, "0:8"), coming), 8) == Span(16, 24)


def test_who_leaves_for_good_counts_no_more():
    seen = view(worker(ANN, "0:16"), worker(BOB, "16:24", leaving=True))
    assert chosen(seen, 8) == Span(16, 24)


def test_of_two_newcomers_at_once_the_one_whose_id_comes_first_keeps_its_choice():
    for mine, other, expected in ((ANN, BOB, Span(8, 16)), (BOB, ANN, Span(16, 24))):
        same = worker(other, "8:16", leaving=True, next_span=Span(8, 16), intends=True)
        seen = survey(view(worker(CYD, "0:8"), same), NUM_BLOCKS, before=mine)
        assert choose_span(seen, 8, 1.0, lambda: 0.0, preferred=Span(8, 16)).span == expected


def test_nobody_moves_when_all_is_well():
    seen = view(
        *(worker(ANN, "0:12"), worker(BOB, "12:24"), worker(CYD, "0:12"), worker(DEE, "12:24"))
    )
    assert [moved(seen, name) for name in seen] == [None] * 4


def test_a_spare_goes_between_two_spans_where_both_can_use_it():
    seen = view(worker(ANN, "0:12"), worker(BOB, "12:24"), worker(CYD, "0:12"))
    assert moved(seen, ANN) == Span(6, 18)


def test_of_two_spares_one_moves_to_the_hole():
    seen = view(worker(ANN, "0:8"), worker(BOB, "0:8"), worker(CYD, "8:16"), worker(DEE, "0:8"))
    assert [name for name in (ANN, BOB, CYD, DEE) if moved(seen, name) == Span(16, 24)] == [ANN]


def test_who_is_first_to_say_so_is_not_followed():
    seen = view(
        worker(ANN, "0:8", next_span=Span(16, 24), intends=True),
        worker(BOB, "0:8"),
        worker(CYD, "8:16"),
    )
    assert moved(seen, BOB) is None
    assert moved(seen, ANN) == Span(16, 24)


def test_the_last_worker_of_a_span_does_not_leave_it_for_more_throughput():
    seen = view(worker(ANN, "0:12", speed=1000), worker(BOB, "12:24", speed=1))
    assert moved(seen, ANN) is None


def test_needed_workers_move_only_for_a_hole_that_lasts():
    seen = view(worker(ANN, "0:8"), worker(BOB, "4:12"), worker(CYD, "12:20", speed=50))
    survivors = [name for name in (ANN, BOB, CYD) if moved(seen, name)]
    assert survivors == []
    late = {name: moved(seen, name, hole_seconds=PATIENCE_SECONDS) for name in (ANN, BOB, CYD)}
    spans = [late[one.worker] or one.span for one in seen.values()]
    assert uncovered(spans, Span(0, 24)) == []


def test_workers_that_were_told_what_to_host_are_not_counted_on_to_move():
    seen = view(worker(ANN, "0:8", fits=0), worker(BOB, "0:8"), worker(CYD, "8:16"))
    assert [moved(seen, name) for name in seen] == [None, Span(16, 24), None]


def test_a_gain_that_measurements_may_feign_is_no_reason_to_move():
    seen = view(worker(ANN, "0:12"), worker(BOB, "12:24"), worker(CYD, "0:12"))
    assert moved(seen, ANN, least_gain=0.4) == Span(6, 18)
    assert moved(seen, ANN, least_gain=0.6) is None


@pytest.mark.parametrize(("reload_seconds", "goes"), [(60.0, True), (1e6, False)])
def test_a_move_must_be_worth_the_reload(reload_seconds: float, goes: bool):
    seen = view(worker(ANN, "0:12", speed=60), worker(BOB, "0:12", speed=60), worker(CYD, "12:24"))
    movers = [name for name in seen if moved(seen, name, reload_seconds=reload_seconds)]
    assert bool(movers) == goes


def test_a_liar_s_speed_is_believed_within_reason():
    liar = worker(ANN, "0:8", speed=1e12)
    seen = survey(view(liar, worker(BOB, "8:16"), worker(CYD, "16:24")), NUM_BLOCKS)
    assert max(seen.levels) < 1000


def test_workers_that_do_not_say_how_fast_they_are_count_as_usual_ones():
    silent = worker(ANN, "0:8", pace=Pace())
    seen = survey(view(silent, worker(BOB, "8:16"), worker(CYD, "16:24")), NUM_BLOCKS)
    assert seen.levels == pytest.approx([100 / 8] * 24)


def test_workers_of_a_model_of_another_size_are_none_of_ours():
    stranger = worker(ANN, "0:8", num_blocks=32)
    assert survey(view(stranger), NUM_BLOCKS).hostings == ()
