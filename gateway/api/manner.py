"""How the answers to a call are to be read. Pure given the model's tokenizer."""

import hashlib
import string
from collections.abc import Sequence
from functools import partial
from typing import Final

from gateway.api.answer import Answer, Manner
from gateway.api.schema import Parsed
from gateway.api.tool_grammar import beginnings
from gateway.markup.calls import listed, listed_or_text
from gateway.markup.incoming import Incoming, Reading
from gateway.markup.reader import plain
from gateway.text import ChatText

ALPHANUMERIC: Final = string.ascii_letters + string.digits
CALL_ID_CHARACTERS: Final = 24


def answer_of(
    text: ChatText,
    parsed: Parsed,
    *,
    prompt: Sequence[int],
    stop_ids: frozenset[int],
    max_tokens: int,
    answer_id: str,
    index: int = 0,
) -> Answer:
    """A choice of an answer, before its first token."""
    request, toolbox = parsed.request, parsed.toolbox
    manner = Manner(
        stop_ids=stop_ids,
        max_tokens=max_tokens,
        stops=tuple(request.stop),
        includes_stop=request.include_stop_str_in_output,
        reading=partial(_reading, text, parsed, text.opens_thoughts(prompt)),
        call_id=partial(call_id, answer_id, index),
        max_calls=toolbox.max_calls if toolbox else 0,
    )
    is_plain = parsed.held_form is not None
    decoder = text.decoder(hides_special=request.skip_special_tokens, is_plain=is_plain)
    return Answer(decoder, manner)


def call_id(answer_id: str, choice: int, call: int) -> str:
    """The same for whoever comes back for the answer."""
    digest = hashlib.blake2b(f"{answer_id} {choice} {call}".encode(), digest_size=32).digest()
    letters = (ALPHANUMERIC[byte % len(ALPHANUMERIC)] for byte in digest)
    return "call_" + "".join(letters)[:CALL_ID_CHARACTERS]


def _reading(text: ChatText, parsed: Parsed, is_open: bool, source: Incoming) -> Reading:
    """A grammar leaves no room for thoughts, nor for marks around calls."""
    toolbox = parsed.toolbox
    if toolbox and toolbox.is_forced:
        return listed(source, toolbox.names.__contains__)
    if parsed.held_form and toolbox:
        return listed_or_text(source, toolbox.names.__contains__, beginnings(toolbox))
    if parsed.held_form:
        return plain(source)
    accepts = toolbox.names.__contains__ if toolbox else None
    return text.dialect.reading(source, accepts, is_open=is_open)
