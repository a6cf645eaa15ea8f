"""How likely the tokens of an answer were, as OpenAI writes it, and the prompt's, as vLLM does.

Pure given a vocabulary.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from gateway.generator import Token
from gateway.vocabulary import Vocabulary
from shared.errors import RequestError
from shared.wire.messages import TokenLogprobs

MAX_PROMPT_LOGPROBS: Final = 1 << 16
"""Of one request, alternatives included: bounds the memory they take, and the answer's size."""


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


def check_prompt_logprobs(
    asked: int | None, num_prompt_tokens: int, *, param: str = "prompt_logprobs"
) -> None:
    """Raises RequestError when they would be too many."""
    most = MAX_PROMPT_LOGPROBS // (1 + (asked or 0))
    if asked is not None and num_prompt_tokens > most:
        raise RequestError(
            f"'{param}' of {asked} can be had of at most {most} prompt tokens, and yours "
            f"are {num_prompt_tokens}.",
            param=param,
            reason="invalid_value",
        )


def prompt_logprobs_list(
    prompt: Sequence[int], told: Sequence[TokenLogprobs], vocabulary: Vocabulary
) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: for each token by its id, and beside it for the likeliest.

    Nothing is known of the first, which follows nothing.
    """
    positions: list[dict[str, Any] | None] = [None]
    for token_id, one in zip(prompt[1:], told, strict=True):
        ranked = [
            (token_id, one.chosen, one.rank),
            *zip(one.top_ids, one.top, range(1, len(one.top) + 1), strict=True),
        ]
        position: dict[str, Any] = {}
        for other, logprob, rank in ranked:
            text = vocabulary.bytes_of(other).decode(errors="replace")
            entry = {"logprob": logprob, "rank": rank, "decoded_token": text}
            position.setdefault(str(other), entry)
        positions.append(position)
    return positions


def _entry(token_id: int, logprob: float, vocabulary: Vocabulary) -> dict[str, Any]:
    """The bytes are the vocabulary's: a token may hold a part of a character only."""
    raw = vocabulary.bytes_of(token_id)
    return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}
