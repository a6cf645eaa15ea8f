"""Tokens guessed ahead of a text, sent with the step before them. Pure.

As a sampled token depends on nothing but the logits, the parameters and its position, a guess is
right exactly when it is the token sampled in its place: the text is the same with guesses and
without. What wrong guesses left in a cache is overwritten by the next step, whose position comes
before it.
"""

from collections.abc import Callable, Sequence

Propose = Callable[[Sequence[int]], tuple[int, ...]]
"""What may follow a text."""


class Guesses:
    """The guesses of one session: those under way, and how the earlier ones fared."""

    def __init__(self, propose: Propose) -> None:
        self.pending: tuple[int, ...] = ()
        self.num_guessed = 0
        self.num_right = 0
        self._propose = propose
        self._sent_at: int | None = None
        self._right_until: dict[int, int] = {}

    def make(self, tokens: Sequence[int], most: int) -> None:
        """Guess what follows `tokens`, once for each text: a step sent again is the same step."""
        self.pending = self._propose(tokens)[: max(0, most)]

    def drop(self) -> None:
        """Send no guesses this time."""
        self.pending = ()

    def sent(self, position: int) -> None:
        """The guesses went with the step at `position`."""
        if self.pending:
            self._sent_at = position

    def judge(self, token_ids: Sequence[int]) -> Sequence[int]:
        """The sampled tokens up to the first that was guessed wrong or not at all."""
        right = 0
        while right < min(len(self.pending), len(token_ids) - 1):
            if token_ids[right] != self.pending[right]:
                break
            right += 1
        self.num_guessed += len(self.pending)
        self.num_right += right
        self.pending = ()
        return token_ids[: right + 1]

    def answered(self, end: int) -> None:
        """Of the step sent last, the inputs before `end` turned out to be the text."""
        if self._sent_at is not None:
            self._right_until[self._sent_at] = end
            self._sent_at = None

    def end_of_text(self, position: int, end: int) -> int:
        """Where the text ends in outputs `[position, end)` of one step."""
        return min(end, self._right_until.get(position, end))
