"""A text that is only read: what is told counts once, and a loss costs only what is missing."""

from gateway.actions import Send
from gateway.reader import Reader
from gateway.session import Session
from shared.swarm import ModelSpec, PeerId, Span
from shared.wire.messages import Reading, States
from tests.gateway.test_session import ANN, BOB, CYD, DEE, route

SPEC = ModelSpec("toy", "r1", 24, hidden_size=1, vocab_size=3, max_positions=64)
AB = route("ann 0:8, bob 8:16")
ALL = Reading("states", (0, 1, 2, 3, 4), (0, 8, 16))


def reading(
    held: dict[int, int] | None = None,
    asked: Reading = ALL,
    chunk_tokens: int = 2,
    hops: str = "ann 0:8, bob 8:16",
) -> Session:
    """A session on ann and bob that reads five tokens, all of which were sent, in epoch 1."""
    made: Session
    reader = Reader(asked, SPEC)
    made = Session(
        (1,) * 5,
        reader.span,
        max_tokens=1,
        stop_ids=frozenset(),
        chunk_tokens=chunk_tokens,
        held=lambda block: 5 if block == 0 else (held or {}).get(block, 0),
        reader=reader,
    )
    made.rerouted(reader.span, route(hops))
    return made


def part(*positions: int) -> Reading:
    return Reading("states", positions, ALL.blocks)


def told(s: Session, worker: PeerId, block: int, *positions: int, epoch: int = 1) -> int:
    """Have a worker tell; how much it moved the session on."""
    before = s.num_advances
    states = States(bytes(16), epoch, block, positions, "float32", 1)
    assert s.states_arrived(worker, states, memoryview(bytes(4 * len(positions)))) == []
    return s.num_advances - before


def test_a_text_is_read_step_by_step_and_nothing_is_sampled():
    reader = Reader(Reading("states", (1, 4), (3, 16)), SPEC)
    s = Session(
        (1,) * 5,
        reader.span,
        max_tokens=1,
        stop_ids=frozenset(),
        chunk_tokens=2,
        held=lambda block: 5,
        reader=reader,
    )
    assert s.rerouted(Span(0, 16), AB) == [
        Send(AB, 1, 0, 2, read=Reading("states", (1,), (3, 16))),
        Send(AB, 1, 2, 2),
        Send(AB, 1, 4, 1, read=Reading("states", (4,), (3, 16))),
    ]


def test_it_is_over_when_all_is_told():
    s = reading()
    for worker, block in ((ANN, 0), (ANN, 8), (BOB, 16)):
        assert not s.is_over
        assert told(s, worker, block, 0, 1, 2, 3, 4) == 1
    assert s.is_over


def test_tokens_are_no_answer():
    s = reading()
    assert s.tokens_arrived(BOB, 1, 5, [3]) == []
    assert not s.is_over


def test_what_others_tell_or_on_an_older_route_changes_nothing():
    s = reading()
    assert told(s, BOB, 8, 0, 1) == 0
    assert told(s, ANN, 16, 0, 1) == 0
    assert told(s, CYD, 16, 0, 1) == 0
    assert told(s, BOB, 16, 0, 1, epoch=0) == 0
    assert told(s, BOB, 16, 0, 1) == 1


def test_a_loss_costs_none_of_the_steps_that_all_have_told():
    s = reading({8: 5})
    for worker, block in ((ANN, 0), (ANN, 8), (BOB, 16)):
        told(s, worker, block, 0, 1, 2)
    assert s.confirmed == 2  # the step of positions 2 and 3 is not whole
    s.worker_lost(BOB)
    new = route("ann 0:8, dee 8:16")
    assert s.rerouted(Span(8, 16), new[1:]) == [Send(new[1:], 2, 0, 2, acknowledge=True)]
    assert s.filled(DEE, 2, 16, 2) == [
        Send(new, 2, 2, 2, read=part(2, 3)),
        Send(new, 2, 4, 1, read=part(4)),
    ]


def test_a_hop_that_has_run_and_told_all_does_not_run_again():
    s = reading({8: 5})
    told(s, ANN, 0, 0, 1, 2, 3, 4)
    told(s, ANN, 8, 0, 1, 2, 3, 4)
    s.checkpointed(ANN, 1, 8, 0, 5)
    s.worker_lost(BOB)
    new = route("dee 8:16")
    assert [send.hops for send in s.rerouted(Span(8, 16), new)] == [new] * 3


def test_a_hop_that_has_run_but_owes_runs_again_and_is_blamed_for_silence():
    s = reading({8: 5})
    told(s, ANN, 0, 0, 1, 2, 3, 4)
    s.checkpointed(ANN, 1, 8, 0, 5)
    assert s.suspect() == ANN
    s.worker_lost(BOB)
    sends = s.rerouted(Span(8, 16), route("dee 8:16"))
    assert [send.hops for send in sends] == [route("ann 0:8, dee 8:16")] * 3


def test_the_next_hop_is_blamed_once_the_first_has_told():
    s = reading()
    told(s, ANN, 0, 0, 1, 2, 3, 4)
    told(s, ANN, 8, 0, 1, 2, 3, 4)
    assert s.suspect() == BOB


def test_a_newcomer_is_not_believed_to_have_what_its_predecessor_told():
    s = reading({8: 5})
    told(s, ANN, 8, 0, 1, 2, 3, 4)
    told(s, BOB, 16, 0, 1, 2, 3)
    s.worker_lost(BOB)
    new = route("ann 0:8, dee 8:16")
    s.rerouted(Span(8, 16), new[1:])
    told(s, ANN, 0, 0, 1, 2, 3, epoch=2)  # all has come up to 4 now
    assert s.confirmed == 4
    actions = s.refused(DEE, 2, "position_gap", 0, PeerId(""))
    assert actions == [
        Send(new[1:], 3, 0, 2, acknowledge=False),
        Send(new[1:], 3, 2, 2, acknowledge=True),
    ]


def test_a_mean_begins_anew_after_a_loss():
    mean = Reading("mean", (4,))
    s = reading({8: 5, 16: 5}, mean, chunk_tokens=4, hops="ann 0:8, bob 8:24")
    assert s.confirmed == 0
    s.worker_lost(BOB)
    new = route("ann 0:8, dee 8:24")
    assert s.rerouted(Span(8, 24), new[1:])[0] == Send(new, 2, 0, 4, read=Reading("mean"))
