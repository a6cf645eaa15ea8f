"""How likely the tokens of an answer were, as OpenAI writes it. Pure given a vocabulary."""

from collections.abc import Iterable
from typing import Any

from gateway.generator import Token
from gateway.vocabulary import Vocabulary


def logprobs_object(tokens: Iterable[Token], vocabulary: Vocabulary) -> dict[str, Any]:
    """A choice's `logprobs`: one entry for each token that came with logprobs."""
    entries: list[dict[str, Any]] = []
    for token in tokens:
        if (told := token.logprobs) is not None:
            others = zip(told.top_ids, told.top, strict=True)
            entry = _entry(token.token_id, told.chosen, vocabulary)
            entry["top_logprobs"] = [_entry(*other, vocabulary) for other in others]
            entries.append(entry)
    return {"content": entries, "refusal": None}


def _entry(token_id: int, logprob: float, vocabulary: Vocabulary) -> dict[str, Any]:
    """The bytes are the vocabulary's: a token may hold a part of a character only."""
    raw = vocabulary.bytes_of(token_id)
    return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}
