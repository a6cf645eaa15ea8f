"""What a session sends says the same whatever it has sent before."""

from itertools import permutations
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace

from gateway.actions import Send
from gateway.contexts import Contexts
from gateway.outbox import Outbox
from shared.swarm import Hop, PeerId, SessionId, Span
from shared.wire.messages import Reading, Sampling, Step

ANN, BOB = (Hop(PeerId(name), Span(0, 4)) for name in ("ann", "bob"))
DECODE = Send((ANN,), 1, 3, 1, sample=True)
SENDS = [
    DECODE,
    replace(DECODE, position=4),
    replace(DECODE, epoch=2),
    replace(DECODE, hops=(BOB,)),
    replace(DECODE, count=2),
    replace(DECODE, sample=False),
    replace(DECODE, sample=False, acknowledge=True),
    replace(DECODE, count=2, guesses=(7,)),
    replace(DECODE, scored=1),
    replace(DECODE, sample=False, read=Reading("logits", (3,))),
]


class Posted:
    """Links and all else that an outbox needs; remembers the steps that were posted."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.session: Any = SimpleNamespace(tokens=[7] * 9, confirmed=0, is_shadowed=False)
        links = SimpleNamespace(
            peer=PeerId("gateway"), grant=lambda session, worker: bytes(64), post=self._post
        )
        limits = SimpleNamespace(wire_dtype="model")
        counter = SimpleNamespace(inc=lambda amount: None)
        metrics = SimpleNamespace(replayed_tokens=counter, replayed_bytes=counter)
        means: Any = SimpleNamespace(links=links, limits=limits, metrics=metrics)
        contexts = Contexts(Sampling(presence_penalty=1.0, num_prompt_logprobs=0), [7, 7])
        self.outbox = Outbox(means, SessionId(bytes(16)), self.session, contexts)

    def _post(self, route: object, step: Step, payload: bytes) -> None:
        self.steps.append(step)


def test_a_step_says_the_same_whatever_went_before_it():
    for before, send in permutations(SENDS, 2):
        fresh, used = Posted(), Posted()
        fresh.outbox.post(send, ())
        used.outbox.post(before, ())
        used.outbox.post(send, ())
        assert used.steps[-1] == fresh.steps[-1]


def test_what_is_told_with_a_step_may_change_between_two_that_are_alike():
    posted = Posted()
    posted.outbox.post(DECODE, ())
    posted.session.is_shadowed = True
    posted.outbox.post(DECODE, ())
    posted.outbox.post(DECODE, (bytes(16),))
    posted.session.tokens.append(8)
    posted.outbox.post(DECODE, (bytes(16),))
    first, second, third, fourth = posted.steps
    assert (first.gathers, second.gathers) == (True, False)
    assert (second.prefix, third.prefix) == ((), (bytes(16),))
    assert fourth.context != third.context
