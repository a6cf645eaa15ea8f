"""What one choice of an answer has said so far. Pure: tokens in, what they say out."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.api.said import CallArguments, CallBegun, Said, Text, Thought, joined
from gateway.generator import Token
from gateway.markup.incoming import Arguments, Begun, Done, Event, Incoming, Reading, Shown
from gateway.markup.incoming import Thinking as ThinkingEvent
from gateway.markup.reader import Reader, plain
from gateway.text import Decoder, StopMatcher
from shared.errors import GenerationFailed
from shared.wire.messages import TokenLogprobs

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Manner:
    """How an answer is read and where it ends. `call_id` names a call by its index.

    Stop strings count in the text for the reader only, so that they cut neither thoughts nor calls.
    """

    stop_ids: frozenset[int]
    max_tokens: int
    stops: tuple[str, ...] = ()
    includes_stop: bool = False
    reading: Callable[[Incoming], Reading] = plain
    call_id: Callable[[int], str] = field(default=str)
    max_calls: int = 0


class Answer:
    """Turns tokens into what they say and the finish reason, and counts them."""

    def __init__(self, decoder: Decoder, manner: Manner) -> None:
        self.finish_reason: FinishReason | None = None
        self.prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        self.token_ids: list[int] = []
        self.num_cached = 0
        self.num_thought_tokens = 0
        self._decoder = decoder
        self._manner = manner
        self._matcher = StopMatcher(manner.stops, includes=manner.includes_stop)
        self._reader = Reader(manner.reading)
        self._num_decoded = 0
        self._num_calls = 0
        self._num_whole_calls = 0
        self._shown: deque[tuple[int, int]] = deque()
        self._untold: deque[tuple[int, Token]] = deque()

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended it, if one did."""
        return self._matcher.matched

    @property
    def num_tokens(self) -> int:
        """How many tokens it is made of so far."""
        return len(self.token_ids)

    def feed(self, tokens: Sequence[Token]) -> list[Said]:
        """What these tokens add. Those after the finish are ignored."""
        if len(tokens) == 1:
            return self._feed_one(tokens[0])
        said = [one for token in tokens for one in self._feed_one(token)]
        return joined(said) if len(said) > 1 else said

    def ended(self) -> None:
        """The generation gives no more. Raises GenerationFailed when it had to."""
        if self.finish_reason is None:
            raise GenerationFailed(
                "generation_failed",
                f"The generation ended by itself after {self.num_tokens} tokens.",
            )

    def _feed_one(self, token: Token) -> list[Said]:
        if self.finish_reason is not None:
            return []
        self.token_ids.append(token.token_id)
        self.num_cached += token.cached_tokens
        self.prompt_logprobs += token.prompt_logprobs
        was_thinking = self._reader.is_thinking
        if token.token_id in self._manner.stop_ids:
            said = self._finish("stop")
        else:
            if token.logprobs is not None:
                self._untold.append((self._num_decoded, token))
            said = self._read(self._decoder.feed(token.token_id))
            if self.finish_reason is None and self.num_tokens == self._manner.max_tokens:
                said += self._finish("length")
        self.num_thought_tokens += was_thinking or self._reader.is_thinking
        return said

    def _finish(self, reason: FinishReason) -> list[Said]:
        """The rest of the text; a character cut in two may still complete a stop string."""
        said = self._read(self._decoder.flush())
        said += self._tell(self._reader.end())
        said += self._text(self._matcher.flush())
        if self.finish_reason is None:
            has_called = reason == "stop" and self._num_whole_calls > 0
            self.finish_reason = "tool_calls" if has_called else reason
        return said

    def _read(self, decoded: str) -> list[Said]:
        self._num_decoded += len(decoded)
        return self._tell(self._reader.feed(decoded))

    def _tell(self, events: Iterable[Event]) -> list[Said]:
        said: list[Said] = []
        for event in events:
            if self.finish_reason is not None:
                break
            if isinstance(event, Shown):
                said += self._show(event)
            else:
                said += self._text(self._matcher.flush())
                said += self._mark(event)
        return said

    def _show(self, event: Shown) -> list[Said]:
        if not (self._manner.stops or self._untold):  # so that nothing is held back
            return [Text(event.text)]
        self._shown.append((event.start, len(event.text)))
        said = self._text(self._matcher.feed(event.text))
        if self._matcher.is_matched:
            self.finish_reason = "stop"
        return said

    def _mark(self, event: ThinkingEvent | Begun | Arguments | Done) -> list[Said]:
        """What is not for the reader."""
        match event:
            case ThinkingEvent(text, start):
                return [Thought(text, self._tokens(start, len(text)))]
            case Begun(name):
                self._num_calls += 1
                index = self._num_calls - 1
                return [CallBegun(index, self._manner.call_id(index), name)]
            case Arguments(fragment):
                return [CallArguments(self._num_calls - 1, fragment)]
            case Done(is_complete):
                self._num_whole_calls += is_complete
                if self._num_calls == self._manner.max_calls and is_complete:
                    self.finish_reason = "tool_calls"
                return []

    def _text(self, text: str) -> list[Said]:
        """What the stop strings let through, with the tokens of the places it was shown at."""
        if not text:
            return []
        tokens: tuple[Token, ...] = ()
        size = len(text)
        while size:
            start, room = self._shown.popleft()
            taken = min(size, room)
            if self._untold:
                tokens += self._tokens(start, taken)
            size -= taken
            if taken < room:
                self._shown.appendleft((start + taken, room - taken))
        return [Text(text, tokens)]

    def _tokens(self, start: int, size: int) -> tuple[Token, ...]:
        """Those that came with logprobs and whose text begins there; older ones are let go."""
        told: list[Token] = []
        while self._untold and self._untold[0][0] < start + size:
            at, token = self._untold.popleft()
            if at >= start:
                told.append(token)
        return tuple(told)
