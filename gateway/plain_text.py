"""Text and token ids as they are, without a chat template. Pure once the tokenizer is loaded."""

from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer

from gateway.text import Decoder

NUM_CONTEXT: Final = 16
"""Tokens of a prompt that a decoder of what follows has to have seen."""


class PlainText:
    """A model's tokenizer. Safe in any thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, *, with_special: bool) -> tuple[int, ...]:
        """The ids of a text, with what the model wants in front of it if asked.

        A text that begins with that already does not get it twice.
        """
        plain = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        if not with_special:
            return plain
        front = tuple(self._tokenizer.encode("", add_special_tokens=True).ids)
        whole = tuple(self._tokenizer.encode(text, add_special_tokens=True).ids)
        first = front[:1]
        return whole[1:] if first and whole[:2] == first * 2 and plain[:1] == first else whole

    def decode(self, token_ids: Sequence[int], *, hides_special: bool = True) -> str:
        """The text of some ids."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=hides_special)

    def names(self, token_ids: Sequence[int]) -> list[str]:
        """What the tokenizer calls each of these tokens; those it has no name for have none."""
        return [self._tokenizer.id_to_token(token_id) or "" for token_id in token_ids]

    def decoder_after(self, prompt: Sequence[int]) -> Decoder:
        """A decoder of what follows a prompt.

        Sentencepiece strips the space from the first token it decodes: here that is the prompt's.
        """
        decoder = Decoder(self._tokenizer)
        for token_id in prompt[-NUM_CONTEXT:]:
            decoder.feed(token_id)
        return decoder

    def starts(self, token_ids: Sequence[int]) -> list[int]:
        """Where in the text of these ids each token's text begins, in characters."""
        decoder, at, starts = Decoder(self._tokenizer), 0, list[int]()
        for token_id in token_ids:
            starts.append(at)
            at += len(decoder.feed(token_id))
        return starts
