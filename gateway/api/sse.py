"""The frames of a streamed answer, exactly as OpenAI's SDKs want them. Pure.

A frame is one `data:` line and a blank one, ended by plain newlines: clients written by hand look
for them. No `retry:` or `event:` line ever, and no frame is empty: openai-python raises on each of
these. An `id:` line only where it was asked for: behind one openai-python takes every blank line
for an event, so that keep-alives then go without. JSON is ASCII, because some clients take U+2028
and U+0085 for line ends.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from gateway.resume_record import EventId, Seen

BLOCK: Final = 64
"""Obfuscated frames differ in size by whole blocks only."""

DONE: Final = b"data: [DONE]\n\n"

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_quoted: Final = json.encoder.encode_basestring_ascii


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
        obfuscates: bool = False,
    ) -> None:
        """With the name of a `stream` each frame says which event of it it is.

        `num_said` is how much was said in frames of an earlier connection. Who `obfuscates` hides
        from those who see the frames' sizes how long the words are.
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
        self._obfuscates = obfuscates
        self._head = "data: " + _compact(head)[:-1]
        self._tail = ',"usage":null}\n\n' if with_usage else "}\n\n"
        self._around: dict[int, tuple[str, str]] = {}

    def role(self, index: int, **more: Any) -> bytes:
        """The first frame of a choice, and the only one with a role: SDKs concatenate roles.

        `more` stands beside the choices.
        """
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._frame(0, self._choice(index, delta, more=more))

    def text(self, index: int, text: str) -> bytes:
        """The same as `said` of a text and nothing else: most pieces are that."""
        if self._obfuscates:
            return self.said(index, {"content": text})
        if index not in self._around:
            before, mark, after = self._choice(index, {"content": ""}).partition('"content":""')
            self._around[index] = before + mark[:-2], after
        before, after = self._around[index]
        self._num_said += 1
        return self._frame(self._num_said, before + _quoted(text) + after)

    def said(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
        usage: dict[str, Any] | None = None,
    ) -> bytes:
        """A piece of a choice; the ids of its tokens and the usage so far where asked for."""
        self._num_said += 1
        chunk = self._choice(index, delta, logprobs, token_ids=token_ids, usage=usage)
        return self._frame(self._num_said, chunk)

    def end(
        self,
        finish_reasons: Sequence[str | None],
        usage: dict[str, Any],
        *,
        seen: Seen | None = None,
        token_ids: Sequence[Sequence[int] | None] = (),
    ) -> bytes:
        """What is left after `seen` of: the finishes, the usage where asked for, and [DONE]."""
        frames = b""
        if seen not in ("finish", "usage"):
            for index, reason in enumerate(finish_reasons):
                ids = token_ids[index] if token_ids else None
                chunk = self._choice(index, {}, reason=reason, token_ids=ids)
                frames += self._frame("finish", chunk)
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
        token_ids: Sequence[int] | None = None,
        usage: dict[str, Any] | None = None,
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        told_logprobs = "null" if logprobs is None else _encode(logprobs)
        told_reason = "null" if reason is None else f'"{reason}"'
        told = (
            f'{self._head},"choices":[{{"index":{index},"delta":{_object(delta)},"logprobs":'
            f'{told_logprobs},"finish_reason":{told_reason}'
        )
        told += "}]" if token_ids is None else f',"token_ids":{_compact(token_ids)}}}]'
        if more:
            told += "".join([f',"{name}":{_compact(value)}' for name, value in more.items()])
        if self._obfuscates:
            told += f',"obfuscation":"{secrets.token_urlsafe(BLOCK)[: -len(told) % BLOCK]}"'
        if usage is not None:
            return f'{told},"usage":{_compact(usage)}}}\n\n'
        return told + self._tail

    def _frame(self, seen: Seen, frame: str) -> bytes:
        """With this one the client has seen that much."""
        if self._stream:
            frame = f"id: {EventId(self._stream, seen)}\n{frame}"
        return frame.encode()


def failure(body: dict[str, Any]) -> bytes:
    """The end of a stream that failed. No finish reason: a client must not take it for an end."""
    return f"data: {_compact(body)}\n\n".encode() + DONE


def _object(fields: Mapping[str, Any]) -> str:
    """Many times as fast for the one short text that most frames carry."""
    return "{" + ",".join([f'"{name}":{_compact(value)}' for name, value in fields.items()]) + "}"


def _compact(value: Any) -> str:
    return "null" if value is None else _encode(value)
