import pytest

from gateway.api.errors import Failure, describe, rule_of
from shared.errors import BrigadeError, ConfigError, GenerationFailed, NoRoute, RequestError


def described(error: Exception, jitter: float = 0.5) -> Failure:
    return describe(error, "req_1", jitter=jitter)


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (RequestError("x", reason="invalid_value"), 400, "invalid_request_error", "invalid_value"),
        (RequestError("x", status=404, reason="y"), 404, "invalid_request_error", "y"),
        (RequestError("x", status=413), 413, "invalid_request_error", "request_too_large"),
        (RequestError("x", status=503), 503, "service_unavailable_error", "server_is_overloaded"),
        (NoRoute("8:16"), 503, "service_unavailable_error", "no_worker_available"),
        (GenerationFailed("worker_lost", "x"), 503, "server_error", "worker_lost"),
        (ConfigError("x"), 500, "server_error", "internal_error"),
        (BrigadeError("x"), 500, "server_error", "internal_error"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "why"), 500, "server_error", "internal_error"),
    ],
)
def test_each_error_has_its_status_type_and_code(
    error: Exception, status: int, kind: str, code: str
):
    failure = described(error)
    seen = failure.body["error"]
    assert (failure.status, seen["type"], seen["code"]) == (status, kind, code)


def test_every_body_has_the_four_keys_and_a_code_that_is_text_or_null():
    errors = RequestError("x", param="p"), NoRoute("x"), ValueError("x")
    for failure in map(described, errors):
        assert list(failure.body["error"]) == ["message", "type", "param", "code"]
        assert isinstance(failure.body["error"]["code"], str | None)


def test_no_worker_says_which_blocks():
    assert "8:16" in described(NoRoute("no worker hosts blocks 8:16")).body["error"]["message"]


def test_a_crash_shows_the_request_id_and_nothing_of_itself():
    message = described(KeyError("/home/bob/key")).body["error"]["message"]
    assert "req_1" in message
    assert "bob" not in message


def test_messages_are_bounded():
    assert len(described(RequestError("x" * 5000)).body["error"]["message"]) == 1000


def test_sdks_keep_to_every_retry_after():
    errors = [NoRoute("x"), GenerationFailed("a", "b"), RequestError("x", status=503)]
    for error in errors:
        for jitter in (0.0, 0.5, 1.0):
            assert 1 <= int(described(error, jitter).headers["retry-after"]) <= 60


def test_clients_are_not_sent_back_all_at_once():
    waits = {described(NoRoute("x"), step / 10).headers["retry-after"] for step in range(11)}
    assert len(waits) > 5


def test_only_what_would_fail_again_or_cost_twice_is_not_to_be_retried():
    final = [ValueError("x"), GenerationFailed("a", "b")]
    passing = [NoRoute("x"), RequestError("x", status=503), RequestError("x", status=429)]
    assert all(rule_of(error).is_final for error in final)
    assert not any(rule_of(error).is_final for error in passing)
    assert described(final[0]).headers["x-should-retry"] == "false"
