"""How likely tokens were, in the shape completions have it. Pure given a vocabulary."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gateway.vocabulary import Vocabulary
from shared.wire.messages import TokenLogprobs


@dataclass(frozen=True)
class Scored:
    """A token, where in the choice's text its own begins, and what is known of it.

    Nothing is known of a prompt's first, which follows nothing.
    """

    token_id: int
    start: int
    told: TokenLogprobs | None = None


def legacy_logprobs(tokens: Iterable[Scored], vocabulary: Vocabulary) -> dict[str, list[Any]]:
    """A choice's `logprobs`, or those of a piece of it."""
    tokens = list(tokens)
    return {
        "tokens": [_name(token.token_id, vocabulary) for token in tokens],
        "token_logprobs": [token.told.chosen if token.told else None for token in tokens],
        "top_logprobs": [_top(token, vocabulary) for token in tokens],
        "text_offset": [token.start for token in tokens],
    }


def _top(token: Scored, vocabulary: Vocabulary) -> dict[str, float] | None:
    """The likeliest by what they stand for, and the token itself."""
    if token.told is None:
        return None
    pairs = [*zip(token.told.top_ids, token.told.top, strict=True)]
    top = {_name(token_id, vocabulary): logprob for token_id, logprob in pairs}
    top.setdefault(_name(token.token_id, vocabulary), token.told.chosen)
    return top


def _name(token_id: int, vocabulary: Vocabulary) -> str:
    """The token's text; of a part of a character the bytes, or all such tokens would look alike."""
    raw = vocabulary.bytes_of(token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
