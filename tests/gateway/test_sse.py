import json
from typing import Any

import pytest

from gateway.api import sse

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def chunks(*, with_usage: bool = False) -> sse.Chunks:
    return sse.Chunks(
        answer_id="chatcmpl-X", created=7, model='a"b', fingerprint="fp_1", with_usage=with_usage
    )


def frames(raw: bytes) -> list[Any]:
    lines = raw.decode("ascii").split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    payloads = [line.removeprefix("data: ") for line in lines]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-X",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": 'a"b',
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }


def test_the_first_frame_has_the_role_and_no_text():
    role = {"role": "assistant", "content": "", "refusal": None}
    assert frames(chunks().role(0)) == [chunk(role)]


@pytest.mark.parametrize("text", ["Hel", 'q"\\', "a\nb\r\n\u2028\x85", "日本 😀", "\0"])
def test_text_survives_its_frame_on_one_ascii_line(text: str):
    assert frames(chunks().said(0, {"content": text})) == [chunk({"content": text})]


def test_a_piece_of_text_takes_its_logprobs_along():
    logprobs = {"content": [{"token": "a", "bytes": [97]}], "refusal": None}
    expected = chunk({"content": "a"})
    expected["choices"][0]["logprobs"] = logprobs
    assert frames(chunks().said(0, {"content": "a"}, logprobs)) == [expected]


def test_a_stream_ends_with_its_finish_then_done():
    assert frames(chunks().end(["length"], USAGE)) == [chunk({}, "length"), "[DONE]"]


def test_usage_comes_last_and_is_null_before_only_where_asked_for():
    told = chunks(with_usage=True)
    assert frames(told.said(0, {"content": "a"})) == [chunk({"content": "a"}) | {"usage": None}]
    assert frames(told.end(["stop"], USAGE)) == [
        chunk({}, "stop") | {"usage": None},
        chunk({}) | {"choices": [], "usage": USAGE},
        "[DONE]",
    ]
    plain = chunks()
    said = plain.role(0) + plain.said(0, {"content": "a"}) + plain.end(["stop"], USAGE)
    assert b"usage" not in said


def test_a_failure_has_no_finish_reason():
    body = {"error": {"message": "m", "type": "server_error", "param": None, "code": "worker_lost"}}
    assert frames(sse.failure(body)) == [body, "[DONE]"]


@pytest.mark.parametrize("text", ["Hel", 'q"\\', "a\nb\r\n\u2028\x85", "日本 😀", "\0"])
@pytest.mark.parametrize("stream", ["", "answer"])
def test_a_text_alone_is_framed_as_any_piece_is(text: str, stream: str):
    one, other = (
        sse.Chunks(
            answer_id='"content":""',
            created=7,
            model="m",
            fingerprint="fp_1",
            with_usage=True,
            stream=stream,
        )
        for _ in range(2)
    )
    for index in (0, 1, 0):
        assert one.text(index, text) == other.said(index, {"content": text})


def test_a_text_alone_is_obfuscated_as_any_piece_is():
    hidden = sse.Chunks(
        answer_id="a", created=7, model="m", fingerprint="f", with_usage=False, obfuscates=True
    )
    (frame,) = frames(hidden.text(0, "Hel"))
    assert frame["obfuscation"]
