"""The frames of a streamed answer, exactly as OpenAI's SDKs want them. Pure.

A frame is one `data:` line and a blank one, ended by plain newlines: clients written by hand look
for them. No `retry:` or `event:` line ever, and no frame is empty: openai-python raises on each of
these. An `id:` line only where it was asked for: behind one openai-python takes every blank line
for an event, so that keep-alives then go without. JSON is ASCII, because some clients take U+2028
and U+0085 for line ends.
"""

import json
from collections.abc import Sequence
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
        num_said: int = 0,
    ) -> None:
        """With the name of a `stream` each frame says which event of it it is.

        `num_said` is how much was said in frames of an earlier connection.
        """
        head = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._with_usage = with_usage
        self._stream = stream
        self._num_said = num_said
        self._head = "data: " + _compact(head)[:-1]
        self._tail = ',"usage":null}\n\n' if with_usage else "}\n\n"

    def role(self, index: int) -> bytes:
        """The first frame of a choice, and the only one with a role: SDKs concatenate roles."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._frame(0, self._choice(index, delta))

    def said(
        self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None
    ) -> bytes:
        """A piece of a choice."""
        self._num_said += 1
        return self._frame(self._num_said, self._choice(index, delta, logprobs))

    def end(
        self,
        finish_reasons: Sequence[str | None],
        usage: dict[str, Any],
        *,
        seen: Seen | None = None,
    ) -> bytes:
        """What is left after `seen` of: the finishes, the usage where asked for, and [DONE]."""
        frames = b""
        if seen not in ("finish", "usage"):
            for index, reason in enumerate(finish_reasons):
                frames += self._frame("finish", self._choice(index, {}, reason=reason))
        if self._with_usage and seen != "usage":
            tail = f',"choices":[],"usage":{_compact(usage)}}}\n\n'
            frames += self._frame("usage", self._head + tail)
        return frames + DONE

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        *,
        reason: str | None = None,
    ) -> str:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        return f'{self._head},"choices":[{_compact(choice)}]{self._tail}'

    def _frame(self, seen: Seen, frame: str) -> bytes:
        """With this one the client has seen that much."""
        mark = f"id: {EventId(self._stream, seen)}\n" if self._stream else ""
        return (mark + frame).encode()


def failure(body: dict[str, Any]) -> bytes:
    """The end of a stream that failed. No finish reason: a client must not take it for an end."""
    return f"data: {_compact(body)}\n\n".encode() + DONE


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
