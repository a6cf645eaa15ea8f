"""How long a batch waits for more to join it."""

from functools import partial

from worker.linger import LINGER_SHARE, QUIET_SECONDS, patience

calm = partial(patience, decode_seconds=0.04, lost_seconds=0.0)
crowded = partial(patience, decode_seconds=0.04, lost_seconds=0.015)


def test_a_batch_of_all_sessions_waits_for_nobody():
    assert calm(1, 1) == crowded(1, 1) == crowded(8, 8) == (0.0, 0.0)


def test_a_batch_waits_a_share_of_its_own_time_and_no_longer_than_it_stays_quiet():
    assert calm(1, 8) == calm(7, 8) == (LINGER_SHARE * 0.04, QUIET_SECONDS)


def test_where_processors_are_short_small_batches_wait_as_long_as_forwards_did():
    assert crowded(3, 8) == (0.015, 0.015)
    assert crowded(4, 8) == calm(4, 8)
