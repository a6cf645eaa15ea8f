"""The frames of a streamed answer, exactly as OpenAI's SDKs want them. Pure.

A frame is one `data:` line and a blank one, ended by plain newlines: clients written by hand look
for them. No `retry:` or `event:` line ever, and no frame is empty: openai-python raises on each of
these. An `id:` line only where it was asked for: behind one openai-python takes every blank line
for an event, so that keep-alives then go without. JSON is ASCII, because some clients take U+2028
and U+0085 for line ends.
"""

import json
from typing import Any, Final

from gateway.resume_record import EventId, Seen

DONE: Final = b"data: [DONE]\n\n"


class Chunks:
    """Builds the frames of one stream around JSON that is made once."""

    def __init__(
        self,
        *,
        answer_id: str,
        created: int,
        model: str,
        fingerprint: str,
        with_usage: bool,
        stream: str = "",
    ) -> None:
        """With the name of a `stream` each frame says which event of it it is."""
        head = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._with_usage = with_usage
        self._stream = stream
        self._head = "data: " + _compact(head)[:-1]
        self._tail = ',"usage":null}\n\n' if with_usage else "}\n\n"
        self._before = self._head + ',"choices":[{"index":0,"delta":'
        self._before_text = self._before + '{"content":'
        self._after_text = '},"logprobs":null,"finish_reason":null}]' + self._tail
        self._before_logprobs = '},"logprobs":'
        self._after_logprobs = ',"finish_reason":null}]' + self._tail

    def role(self) -> bytes:
        """The first frame, and the only one with a role: SDKs concatenate roles."""
        delta = '{"role":"assistant","content":"","refusal":null'
        return self._frame(0, f"{self._before}{delta}{self._after_text}")

    def text(
        self, delta: str, logprobs: dict[str, Any] | None = None, *, num_tokens: int = 0
    ) -> bytes:
        """A piece of the answer, which is `num_tokens` long with it."""
        rest = self._after_text
        if logprobs is not None:
            rest = f"{self._before_logprobs}{_compact(logprobs)}{self._after_logprobs}"
        return self._frame(num_tokens, f"{self._before_text}{json.dumps(delta)}{rest}")

    def end(self, finish_reason: str, usage: dict[str, Any], *, seen: Seen | None = None) -> bytes:
        """What is left after `seen` of: the finish, the usage where asked for, and [DONE]."""
        frames = b""
        if seen not in ("finish", "usage"):
            finish = f'{{}},"logprobs":null,"finish_reason":{json.dumps(finish_reason)}}}]'
            frames += self._frame("finish", f"{self._before}{finish}{self._tail}")
        if self._with_usage and seen != "usage":
            tail = f',"choices":[],"usage":{_compact(usage)}}}\n\n'
            frames += self._frame("usage", self._head + tail)
        return frames + DONE

    def _frame(self, seen: Seen, frame: str) -> bytes:
        """With this one the client has seen that much."""
        mark = f"id: {EventId(self._stream, seen)}\n" if self._stream else ""
        return (mark + frame).encode()


def failure(body: dict[str, Any]) -> bytes:
    """The end of a stream that failed. No finish reason: a client must not take it for an end."""
    return f"data: {_compact(body)}\n\n".encode() + DONE


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
