"""Text to token ids and back: encoding prompts, decoding as tokens come, stop strings.

Pure once the tokenizer is loaded.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self, cast

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from gateway.markup.dialect import ToolFormat, dialect_of
from gateway.markup.incoming import num_doubtful
from gateway.template import ChatTemplate, Wording
from gateway.time_limit import within
from gateway.vocabulary import Vocabulary
from shared.errors import ModelError, RequestError

_load = cast(Any, AutoTokenizer).from_pretrained

REPLACEMENT: Final = "\ufffd"

RENDER_SECONDS: Final = 10.0
"""How long a chat template may take. A long conversation takes milliseconds."""

RENDERING: Final = 8
"""How many prompts of a model are made at a time; others wait."""

NUM_LAST: Final = 16
"""Tokens within which a prompt says that the model is to think."""

PLAIN: Final = Wording()

MAX_HELD_TOKENS: Final = 64
"""A character spans at most 4 tokens. A run this long that still ends in U+FFFD is no character
in the making but a model gone astray, and decoding it anew for each token would be quadratic."""

NUM_DECODED: Final = 1 << 14
"""What a token adds after another, as far as that is remembered: to find it takes 6 us. Of a
language most pairs that come are among few thousands."""


class Decoder:
    """Token ids in, text out as soon as it is final. Special tokens are hidden but those `shown`.

    Decoding is not local: sentencepiece strips the first token's space, and one character may be
    spread over several byte tokens. So the tokens delivered last are kept as context, and what
    the held ones add to the context's text is delivered when it ends in a whole character. That
    relies on nothing but the tokenizer's own decode.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Mapping[int, str] | None = None) -> None:
        """`shown` gives the texts of special tokens."""
        self._tokenizer = tokenizer
        self._shown = shown or {}
        self._context: tuple[int, ...] = ()
        self._held: tuple[int, ...] = ()

    def feed(self, token_id: int) -> str:
        """The text that `token_id` completes; often all of its own, sometimes none."""
        if token_id in self._shown:
            return self._settled() + self._shown[token_id]
        self._held += (token_id,)
        delta = self._undelivered()
        is_partial = delta.endswith(REPLACEMENT) and len(self._held) < MAX_HELD_TOKENS
        if not delta or is_partial:
            return ""
        self._context, self._held = self._held, ()
        return delta

    def flush(self) -> str:
        """What is still held, with U+FFFD for a character cut in two. Ends the decoding."""
        delta = self._undelivered()
        self._context, self._held = (), ()
        return delta

    def _settled(self) -> str:
        """What is held, as nothing can complete it any more; still context for what follows."""
        delta = self._undelivered()
        if self._held:
            self._context, self._held = self._held, ()
        return delta

    def _undelivered(self) -> str:
        if not self._held:
            return ""
        find = _added if len(self._context) + len(self._held) > 2 else _remembered
        return find(self._tokenizer, self._context, self._held)


def _added(tokenizer: Tokenizer, context: tuple[int, ...], held: tuple[int, ...]) -> str:
    """What `held` adds to the text of `context`."""
    before = tokenizer.decode(context, skip_special_tokens=True)
    text = tokenizer.decode(context + held, skip_special_tokens=True)
    if text.startswith(before):
        return text[len(before) :]
    # A byte-fallback decoder turns a whole run of byte tokens to U+FFFD when its end is
    # broken, the good characters before it too.
    return tokenizer.decode(held, skip_special_tokens=True)


_remembered = lru_cache(NUM_DECODED)(_added)


class StopMatcher:
    """Ends a text at the stop string that is complete first, wherever the pieces are cut.

    The text before it is delivered, the stop string only where the matcher `includes` it. The
    longest end that could still become a stop string is held back.
    """

    def __init__(self, stops: Sequence[str], *, includes: bool = False) -> None:
        self.matched: str | None = None
        self._includes = includes
        self._stops = tuple(stops)
        self._held = ""

    @property
    def is_matched(self) -> bool:
        """Whether a stop string has ended the text."""
        return self.matched is not None

    def feed(self, text: str) -> str:
        """What may be delivered now; nothing after a match, which then stays in front."""
        if not self._stops:
            return text
        self._held += text
        found = self._first_match()
        self.matched = found[1] if found else None
        end = found[0] if found else len(self._held) - num_doubtful(self._held, self._stops)
        delivered, self._held = self._held[:end], self._held[end:]
        return delivered

    def flush(self) -> str:
        """What was held back: the text has ended without completing a stop string."""
        held, self._held = self._held, ""
        return "" if self.is_matched else held

    def _first_match(self) -> tuple[int, str] | None:
        """Where the text ends by the stop string that is complete first, and which it is."""
        starts = ((self._held.find(stop), stop) for stop in self._stops)
        found = [(start + len(stop), start, stop) for start, stop in starts if start >= 0]
        if not found:
            return None
        end, start, stop = min(found)
        return end if self._includes else start, stop


class ChatText:
    """A model's tokenizer and chat template."""

    def __init__(
        self, tokenizer: Any, stop_ids: frozenset[int], tool_format: ToolFormat | None = None
    ) -> None:
        """`tokenizer` is one of transformers', backed by the tokenizers library.

        Without a `tool_format` it is read off the template how the model marks its calls.
        """
        self.stop_ids = stop_ids
        # Used directly, because the wrapper's encode() mutates it and fails across threads.
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self.vocabulary = Vocabulary(self._backend.to_str)
        self.template = ChatTemplate(tokenizer)
        self.dialect = dialect_of(self.template.text, tool_format)
        added = self._backend.get_added_tokens_decoder()
        self._special = {i: token.content for i, token in added.items() if token.special}
        self._rendering = asyncio.Semaphore(RENDERING)

    @classmethod
    def load(cls, directory: Path, tool_format: ToolFormat | None = None) -> Self:
        """Read a tokenizer's files. Raises ModelError when they cannot be used."""
        try:
            tokenizer = _load(str(directory), local_files_only=True)
            stop_ids = _stop_ids(directory, tokenizer.eos_token_id)
        except Exception as error:  # tokenizers raises bare Exceptions for broken files
            raise ModelError(f"no usable tokenizer in {directory}: {error}") from error
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(f"{directory} has no tokenizer.json, nor can one be made of it")
        return cls(tokenizer, stop_ids, tool_format)

    async def prompt(
        self, messages: Sequence[Mapping[str, Any]], wording: Wording = PLAIN
    ) -> tuple[int, ...]:
        """render(), off the event loop and in bounded time."""
        async with self._rendering:
            try:
                return await within(RENDER_SECONDS, lambda: self.render(messages, wording))
            except TimeoutError as error:
                sentence = (
                    "The model's chat template took more than "
                    f"{RENDER_SECONDS:.0f} s with these messages."
                )
                raise RequestError(sentence, param="messages") from error

    def render(
        self, messages: Sequence[Mapping[str, Any]], wording: Wording = PLAIN
    ) -> tuple[int, ...]:
        """The prompt's token ids, up to where the assistant speaks. Safe in any thread.

        Raises RequestError when the template does not accept the messages.
        """
        text = self.template.render(messages, wording)
        # Templates write BOS themselves where the model wants one; adding it would double it.
        token_ids = tuple(self._backend.encode(text, add_special_tokens=False).ids)
        if not token_ids:
            raise RequestError("The messages make an empty prompt.", param="messages")
        return token_ids

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer itself."""
        return self._backend

    def opens_thoughts(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends where the model is thinking already."""
        end = self._backend.decode(list(prompt[-NUM_LAST:]), skip_special_tokens=False)
        return self.dialect.opens_thoughts(end)

    def decoder(self, *, hides_special: bool = True, is_plain: bool = True) -> Decoder:
        """A new decoder, for one answer; unless it is plain, it shows the marks of calls too."""
        markers = frozenset[str]() if is_plain else self.dialect.markers
        shown = {
            token_id: text
            for token_id, text in self._special.items()
            if not hides_special or text in markers
        }
        return Decoder(self._backend, shown)


def _stop_ids(directory: Path, eos_id: int | None) -> frozenset[int]:
    """What ends an answer: the tokenizer's EOS and those the model's own files name."""
    named: list[Any] = [eos_id]
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        eos = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
        named += cast(list[Any], eos) if isinstance(eos, list) else [eos]
    return frozenset(token_id for token_id in named if isinstance(token_id, int))
