"""The frames of a streamed answer, exactly as OpenAI's SDKs want them. Pure.

A frame is one `data:` line and a blank one, ended by plain newlines: clients written by hand look
for them. No `id:`, `retry:` or `event:` line ever, and no frame is empty: openai-python raises on
each of these. JSON is ASCII, because some clients take U+2028 and U+0085 for line ends.
"""

import json
from typing import Any, Final

DONE: Final = b"data: [DONE]\n\n"


class Chunks:
    """Builds the frames of one stream around JSON that is made once."""

    def __init__(
        self, *, answer_id: str, created: int, model: str, fingerprint: str, with_usage: bool
    ) -> None:
        head = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._with_usage = with_usage
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
        return f"{self._before}{delta}{self._after_text}".encode()

    def text(self, delta: str, logprobs: dict[str, Any] | None = None) -> bytes:
        """A piece of the answer."""
        if logprobs is not None:
            rest = f"{self._before_logprobs}{_compact(logprobs)}{self._after_logprobs}"
            return f"{self._before_text}{json.dumps(delta)}{rest}".encode()
        return f"{self._before_text}{json.dumps(delta)}{self._after_text}".encode()

    def end(self, finish_reason: str, usage: dict[str, Any]) -> bytes:
        """The finish, the usage where it was asked for, and [DONE]."""
        finish = f'{{}},"logprobs":null,"finish_reason":{json.dumps(finish_reason)}}}]'
        frames = f"{self._before}{finish}{self._tail}"
        if self._with_usage:
            frames += f'{self._head},"choices":[],"usage":{_compact(usage)}}}\n\n'
        return frames.encode() + DONE


def failure(body: dict[str, Any]) -> bytes:
    """The end of a stream that failed. No finish reason: a client must not take it for an end."""
    return f"data: {_compact(body)}\n\n".encode() + DONE


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
