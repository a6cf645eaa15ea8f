"""What a session asks its shell to do. Pure.

What is made for each token is a frozen Struct: a frozen dataclass takes ten times as long to make.
"""

import msgspec

from shared.swarm import Route
from shared.wire.messages import Reading, TokenLogprobs


class Send(msgspec.Struct, frozen=True):
    """Run inputs `[position, position + count)` of the first hop's block through `hops`.

    With `sample`, tokens are wanted after the last input that is no guess and after each of the
    `guesses`, which are the last of the inputs. Of the tokens of the text that follow the inputs,
    the first `scored` are to be scored. `read` is what is to be told of the text itself.
    """

    hops: Route
    epoch: int
    position: int
    count: int
    sample: bool = False
    acknowledge: bool = False
    guesses: tuple[int, ...] = ()
    scored: int = 0
    read: Reading | None = None


class Emit(msgspec.Struct, frozen=True):
    """Token ids the client has not seen yet, and their logprobs if they came with any."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


class EmitScores(msgspec.Struct, frozen=True):
    """The logprobs of the next tokens of the text itself; none stands for its first token."""

    logprobs: tuple[TokenLogprobs, ...]


Action = Send | Emit | EmitScores
