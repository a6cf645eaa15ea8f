"""What pings say about a link."""

import pytest

from shared.wire.quality import FASTEST, LARGE_BYTES, MAX_SAMPLES, Quality


def test_nothing_is_known_before_the_first_answer():
    quality = Quality()
    assert (quality.delay_seconds, quality.bytes_per_second) == (None, 0.0)


def test_the_delay_is_half_of_the_least_round_trip_of_late():
    quality = Quality()
    for seconds in (0.3, 0.1, 0.2):
        quality.answered(seconds)
    assert quality.delay_seconds == 0.05
    for _ in range(MAX_SAMPLES):
        quality.answered(0.4)  # the way has become longer
    assert quality.delay_seconds == 0.2


def test_the_rate_is_what_a_large_frame_took_beyond_a_round_trip():
    quality = Quality()
    quality.answered(0.1)
    quality.answered(1.1, 1 << 20)
    quality.answered(4.1, 1 << 20)  # behind others
    assert quality.bytes_per_second == pytest.approx(1 << 20)
    assert quality.delay_seconds == 0.05


def test_what_says_nothing_of_the_rate_is_not_taken_for_one():
    quality = Quality()
    quality.answered(1.0, LARGE_BYTES)  # the delay is not known yet
    quality.answered(0.1, LARGE_BYTES - 1)
    quality.answered(0.1, LARGE_BYTES)  # no slower than an empty ping
    assert quality.bytes_per_second == 0.0


def test_no_quirk_of_clocks_makes_a_link_faster_than_any_is():
    quality = Quality()
    quality.answered(0.1)
    quality.answered(0.1 + 1e-12, 1 << 30)
    assert quality.bytes_per_second == FASTEST
