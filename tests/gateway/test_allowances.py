"""Requests and tokens a minute: buckets that fill evenly, and what callers are told of them."""

from typing import Any

import pytest

from gateway.allowances import Allowance, Allowances, Bucket, go_duration
from gateway.keys import Key
from shared.errors import RequestError

DIGEST = "sha256:" + "0" * 64


def key(**limits: Any) -> Key:
    return Key(name="alice", digest=DIGEST, **limits)


def refused(allowance: Allowance, num_tokens: int, now: float) -> RequestError:
    with pytest.raises(RequestError) as caught:
        allowance.enter(num_tokens, now)
    assert (caught.value.status, caught.value.reason) == (429, "rate_limit_exceeded")
    return caught.value


def test_a_bucket_fills_evenly_and_no_further_than_full():
    bucket = Bucket(60, now=0)
    bucket.take(60, now=0)
    assert [bucket.left(now) for now in (0, 1, 30, 60, 999)] == [0, 1, 30, 60, 60]


def test_an_overdrawn_bucket_has_to_be_filled_up_first():
    bucket = Bucket(60, now=0)
    bucket.take(90, now=0)
    assert bucket.wait(1, now=0) == 31


def test_what_never_fits_needs_a_full_bucket():
    bucket = Bucket(60, now=0)
    assert bucket.wait(1000, now=0) == 0
    bucket.take(1000, now=0)
    assert bucket.wait(1000, now=0) == 1000


def test_a_clock_that_goes_back_gives_nothing_away():
    bucket = Bucket(60, now=100)
    bucket.take(60, now=100)
    assert bucket.left(now=50) == 0


def test_requests_beyond_the_limit_are_told_when_to_come_back():
    allowance = Allowance.of(key(requests_per_minute=2), now=0)
    allowance.enter(5, now=0)
    allowance.enter(5, now=0)
    error = refused(allowance, 5, now=0)
    assert (error.kind, error.retry_seconds) == ("requests", 30)
    allowance.enter(5, now=30)


def test_a_refused_request_costs_nothing():
    allowance = Allowance.of(key(requests_per_minute=9, tokens_per_minute=60), now=0)
    allowance.enter(60, now=0)
    before = allowance.headers(now=1)
    assert refused(allowance, 5, now=1).kind == "tokens"
    assert allowance.headers(now=1) == before


def test_tokens_of_an_answer_are_paid_by_the_next_request():
    allowance = Allowance.of(key(tokens_per_minute=60), now=0)
    allowance.enter(10, now=0)
    allowance.spend(80, now=0)
    assert refused(allowance, 10, now=0).retry_seconds == 40


def test_what_is_not_limited_is_not_told():
    assert Allowance.of(key(max_streams=1), now=0).headers(now=0) == {}


def test_the_headers_are_openai_s():
    allowance = Allowance.of(key(requests_per_minute=60, tokens_per_minute=600), now=0)
    allowance.enter(90, now=0)
    assert allowance.headers(now=0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "510",
        "x-ratelimit-reset-tokens": "9s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0121, "13ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s"), (61, "1m1s")],
)
def test_times_are_written_as_go_does(seconds: float, text: str):
    assert go_duration(seconds) == text


def test_a_key_whose_limits_change_begins_anew():
    allowances = Allowances()
    allowances.of(key(requests_per_minute=1), now=0).enter(1, now=0)
    assert (
        allowances.of(key(requests_per_minute=1), now=0).headers(0)[
            "x-ratelimit-remaining-requests"
        ]
        == "0"
    )
    allowances.of(key(requests_per_minute=2), now=0).enter(1, now=0)
