"""How fast a worker says it is."""

import math

import msgspec
import pytest

from shared.pace import Pace, shares

PACE = Pace((0.010, 0.024, 0.072), prefill=0.001)


def test_what_was_measured_is_what_is_told():
    assert [PACE.decode_seconds(batch) for batch in (1, 8, 32)] == pytest.approx(PACE.decode)


def test_between_measurements_and_beyond_them_lie_straight_lines():
    assert PACE.decode_seconds(4.5) == pytest.approx(0.017)
    assert PACE.decode_seconds(20) == pytest.approx(0.048)
    assert PACE.decode_seconds(56) == pytest.approx(0.120)


def test_a_batch_of_less_than_one_session_takes_what_one_takes():
    assert shares(0) == (1.0, 0.0, 0.0)


def test_no_batch_is_faster_than_a_single_session_whatever_a_worker_says():
    assert Pace((0.01, 0.02, 0.001)).decode_seconds(100) == 0.01


def test_a_pace_without_measurements_is_not_known():
    assert PACE.is_known
    assert not Pace().is_known
    assert not Pace((0.01, 0.0, 0.1)).is_known


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0, 3601.0])
def test_what_is_no_sensible_time_does_not_decode(number: float):
    lie = msgspec.msgpack.encode(((number, 1.0, 1.0), 0.1))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(lie, type=Pace)
