"""Guesses the next tokens by prompt lookup: what followed the last time the text read like this.

Pure. A wrong guess costs a little compute and never a wrong token, see session.py; text that
repeats itself (code, summaries, structured data) is guessed well.
Prompt lookup decoding: https://github.com/apoorvumang/prompt-lookup-decoding
"""

from collections.abc import Sequence

NGRAM_TOKENS = 3
"""Tokens that must match before what followed them is proposed."""


class PromptLookup:
    """Proposes up to `most` tokens to follow a text that grows by appending."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._indexed = 0
        self._after: dict[tuple[int, ...], int] = {}

    def propose(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The tokens after the latest earlier place that ends like `tokens`; () if there is none.

        Each call must see the text of the last one, and what was appended since.
        """
        if not self._most:
            return ()
        self._index(tokens)
        place = self._after.get(tuple(tokens[-NGRAM_TOKENS:]))
        return tuple(tokens[place : place + self._most]) if place is not None else ()

    def _index(self, tokens: Sequence[int]) -> None:
        """Remember where each n-gram was last seen, the one at the very end left out."""
        for end in range(max(self._indexed, NGRAM_TOKENS), len(tokens)):
            self._after[tuple(tokens[end - NGRAM_TOKENS : end])] = end
        self._indexed = len(tokens)
