"""How many bytes of states and logits may wait for their clients. Pure."""

from collections.abc import Callable

from shared.errors import RequestError

LARGEST_SHARE = 4
"""No answer may take more than one in so many bytes of the room."""


class Room:
    """`budget_bytes` in all, which answers take a part of before they are computed."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.taken_bytes = 0

    def take(self, num_bytes: int, *, param: str, remedy: str) -> Callable[[], None]:
        """Room for an answer, and how to give it back; further calls of that do nothing.

        Raises RequestError: 400 with the remedy when there can never be as much, else 503.
        """
        most = self.budget_bytes // LARGEST_SHARE
        if num_bytes > most:
            raise RequestError(
                f"The answer would take up to {num_bytes} bytes, and at most {most} are given at "
                f"a time: {remedy}.",
                param=param,
                reason="answer_too_large",
            )
        if self.taken_bytes + num_bytes > self.budget_bytes:
            raise RequestError(
                f"{self.taken_bytes} of {self.budget_bytes} bytes for such answers are taken. "
                "Please retry later.",
                reason="server_is_overloaded",
                status=503,
            )
        self.taken_bytes += num_bytes
        left = [num_bytes]

        def give_back() -> None:
            self.taken_bytes -= left.pop() if left else 0

        return give_back
