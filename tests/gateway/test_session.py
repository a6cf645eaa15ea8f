"""The session's rules, each on the smallest case that shows it."""

from collections.abc import Sequence

import pytest

from gateway.actions import Emit, EmitScores, Send
from gateway.session import MAX_MENDED_TOKENS, Session
from shared.swarm import Hop, PeerId, Route, Span
from shared.wire.messages import TokenLogprobs

ANN, BOB, CYD, DEE, EVE = (PeerId(name) for name in ("ann", "bob", "cyd", "dee", "eve"))
PROMPT = (5, 6)
BLOCKS = Span(0, 24)


def route(text: str) -> Route:
    """`ann 0:8, bob 8:16` as a route."""
    parts = [part.split() for part in text.split(", ")]
    return tuple(Hop(PeerId(name), Span.parse(span)) for name, span in parts)


ABC = route("ann 0:8, bob 8:16, cyd 16:24")


def session(
    held: dict[int, int] | None = None, prompt: Sequence[int] = PROMPT, **options: int
) -> Session:
    """A session on ann, bob and cyd whose prompt has been sent, in epoch 1."""
    checkpoints = held or {}
    made: Session
    made = Session(
        prompt,
        BLOCKS,
        max_tokens=options.pop("max_tokens", 100),
        stop_ids=frozenset({99}),
        chunk_tokens=options.pop("chunk_tokens", 512),
        held=lambda block: len(made.tokens) if block == 0 else checkpoints.get(block, 0),
        num_scored=options.pop("num_scored", 0),
    )
    made.rerouted(BLOCKS, ABC)
    return made


def decoding(held: dict[int, int] | None = None) -> Session:
    """The same after its first token, 7: the step at position 2 is in flight."""
    made = session(held)
    made.tokens_arrived(CYD, epoch=1, position=2, token_ids=[7])
    return made


def test_a_new_session_is_one_whose_whole_route_is_lost():
    s = Session(PROMPT, BLOCKS, max_tokens=1, stop_ids=set(), chunk_tokens=512, held=lambda b: 2)
    assert s.gaps == [BLOCKS]
    assert s.rerouted(BLOCKS, ABC) == [Send(ABC, 1, 0, 2, sample=True)]


def test_a_long_prompt_goes_in_chunks_and_only_the_last_is_sampled():
    s = Session((1,) * 5, BLOCKS, max_tokens=1, stop_ids=set(), chunk_tokens=2, held=lambda b: 5)
    assert s.rerouted(BLOCKS, ABC) == [
        Send(ABC, 1, 0, 2),
        Send(ABC, 1, 2, 2),
        Send(ABC, 1, 4, 1, sample=True),
    ]


def test_a_token_is_sent_on_and_emitted():
    assert session().tokens_arrived(CYD, epoch=1, position=2, token_ids=[7]) == [
        Send(ABC, 1, 2, 1, sample=True),
        Emit((7,)),
    ]


@pytest.mark.parametrize("guesses", [(), (8, 9)])
def test_a_step_in_order_is_the_one_that_is_worked_out_for_any_session(guesses: tuple[int, ...]):
    s = guessing(*guesses)
    (send, _) = s.tokens_arrived(CYD, epoch=1, position=3, token_ids=[10])
    assert [send] == s._send_unanswered(dict.fromkeys(ABC, 3), mends=True)


def test_logprobs_go_with_the_tokens_that_are_emitted():
    s = session()
    told = (TokenLogprobs(-1.0), TokenLogprobs(-2.0))
    assert s.tokens_arrived(CYD, 1, 2, [99, 8], told) == [Emit((99,), told[:1])]


def test_the_session_is_over_at_a_stop_id_and_at_its_last_token():
    s = session()
    assert s.tokens_arrived(CYD, epoch=1, position=2, token_ids=[99, 8]) == [Emit((99,))]
    assert s.is_over
    s = session(max_tokens=1)
    assert s.tokens_arrived(CYD, epoch=1, position=2, token_ids=[7]) == [Emit((7,))]
    assert s.is_over


def test_answers_for_another_position_epoch_or_from_another_hop_change_nothing():
    s = decoding()
    assert s.tokens_arrived(CYD, epoch=1, position=2, token_ids=[8]) == []
    assert s.tokens_arrived(CYD, epoch=0, position=3, token_ids=[8]) == []
    assert s.tokens_arrived(BOB, epoch=1, position=3, token_ids=[8]) == []
    assert s.tokens == [5, 6, 7]


def test_a_lost_worker_leaves_a_gap_of_its_span_only():
    s = decoding()
    s.worker_lost(BOB)
    assert s.gaps == [Span(8, 16)]
    assert s.is_lost(BOB)
    assert not s.is_lost(ANN)


def test_neighbours_lost_together_leave_one_gap():
    s = decoding()
    s.worker_lost(CYD)
    s.worker_lost(BOB)
    assert s.gaps == [Span(8, 24)]


def test_a_worker_of_no_hop_is_no_loss():
    s = decoding()
    s.worker_lost(DEE)
    assert s.gaps == []


def test_a_newcomer_is_refilled_from_its_checkpoint_then_the_step_is_sent_again():
    s = decoding(held={8: 3})
    s.worker_lost(BOB)
    dee = route("dee 8:16")
    assert s.rerouted(Span(8, 16), dee) == [Send(dee, 2, 0, 2, acknowledge=True)]
    s.checkpointed(ANN, epoch=2, block=8, position=2, count=1)
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    assert s.filled(DEE, epoch=2, block=16, position=2) == [Send(line[1:], 2, 2, 1, sample=True)]


def test_the_step_goes_right_after_a_refill_that_it_cannot_overtake():
    s = decoding(held={8: 3})
    s.checkpointed(ANN, epoch=1, block=8, position=2, count=1)
    s.worker_lost(BOB)
    dee, line = route("dee 8:16"), route("dee 8:16, cyd 16:24")
    step = Send(line, 2, 2, 1, sample=True)
    assert s.rerouted(Span(8, 16), dee) == [Send(dee, 2, 0, 2, acknowledge=True), step]
    assert s.suspect() == DEE
    assert s.filled(DEE, epoch=2, block=16, position=2) == []
    assert s.suspect() == DEE
    s.checkpointed(DEE, epoch=2, block=16, position=2, count=1)
    assert s.suspect() == CYD


def test_an_answer_may_come_before_the_word_of_the_refill_that_it_followed():
    s = decoding(held={8: 3})
    s.checkpointed(ANN, epoch=1, block=8, position=2, count=1)
    s.worker_lost(BOB)
    s.rerouted(Span(8, 16), route("dee 8:16"))
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    step = Send(line, 2, 3, 1, sample=True)
    assert s.tokens_arrived(CYD, epoch=2, position=3, token_ids=[8]) == [step, Emit((8,))]
    assert s.filled(DEE, epoch=2, block=16, position=2) == []
    assert s.is_decoding


def test_without_checkpoints_a_refill_starts_from_the_token_ids():
    s = decoding()
    s.worker_lost(BOB)
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    refill, step = Send(line[:2], 2, 0, 2, acknowledge=True), Send(line, 2, 2, 1, sample=True)
    assert s.rerouted(Span(8, 16), line[1:2]) == [refill, step]


def test_a_refill_takes_the_nearest_upstream_boundary_that_has_anything():
    s = decoding(held={8: 2})
    s.worker_lost(CYD)
    dee = route("dee 16:24")
    line = route("bob 8:16, dee 16:24")
    assert s.rerouted(Span(16, 24), dee) == [Send(line, 2, 0, 2, acknowledge=True)]


def test_a_refill_goes_on_upstream_where_its_checkpoint_ends():
    s = decoding(held={8: 1})
    s.worker_lost(BOB)
    dee = route("dee 8:16")
    assert s.rerouted(Span(8, 16), dee) == [Send(dee, 2, 0, 1, acknowledge=True)]
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    assert s.filled(DEE, epoch=2, block=16, position=1) == [Send(line, 2, 1, 2, sample=True)]


def test_what_is_too_long_for_the_step_is_refilled_upstream_too():
    s = session(held={8: 1}, prompt=(5,) * 40)
    s.tokens_arrived(CYD, 1, 40, [7])
    s.worker_lost(BOB)
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    assert s.rerouted(Span(8, 16), line[1:2]) == [Send(line[1:2], 2, 0, 1, acknowledge=True)]
    assert s.filled(DEE, epoch=2, block=16, position=1) == [
        Send(line[:2], 2, 1, 39, acknowledge=True),
        Send(line, 2, 40, 1, sample=True),
    ]


def test_a_hole_that_a_lost_hop_left_in_the_checkpoints_is_run_again_when_the_text_goes_on():
    held = {8: 40, 16: 38}
    s = session(held, prompt=(5,) * 40)
    s.tokens_arrived(CYD, 1, 40, [7])
    s.worker_lost(BOB)
    s.rerouted(Span(8, 16), route("dee 8:16"))
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    assert s.filled(DEE, 2, 16, 40) == [Send(line, 2, 40, 1, sample=True)]
    assert s.tokens_arrived(CYD, 2, 41, [8]) == [Send(line, 2, 38, 4, sample=True), Emit((8,))]
    held[16] = 42
    assert s.tokens_arrived(CYD, 2, 42, [8]) == [Send(line, 2, 42, 1, sample=True), Emit((8,))]


@pytest.mark.parametrize("held", [0, 40 - MAX_MENDED_TOKENS - 1, 40])
def test_what_is_held_nothing_of_far_behind_or_whole_is_not(held: int):
    s = session({8: 40, 16: held}, prompt=(5,) * 40)
    s.tokens_arrived(CYD, 1, 40, [7])
    s.worker_lost(BOB)
    s.rerouted(Span(8, 16), route("dee 8:16"))
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    assert s.filled(DEE, 2, 16, 40) == [Send(line, 2, 40, 1, sample=True)]
    assert s.tokens_arrived(CYD, 2, 41, [8]) == [Send(line, 2, 41, 1, sample=True), Emit((8,))]


def test_a_loss_before_the_first_token_sends_the_prompt_again_and_refills_nothing():
    s = session()
    s.worker_lost(BOB)
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    assert s.rerouted(Span(8, 16), route("dee 8:16")) == [Send(line, 2, 0, 2, sample=True)]


def test_nothing_is_sent_while_another_gap_is_open():
    s = decoding()
    s.worker_lost(ANN)
    s.worker_lost(CYD)
    assert s.rerouted(Span(16, 24), route("dee 16:24")) == []
    assert s.rerouted(Span(0, 8), route("eve 0:8")) != []


def test_a_token_that_was_under_way_is_taken_while_a_gap_is_open():
    s = decoding()
    s.worker_lost(BOB)
    assert s.tokens_arrived(CYD, epoch=1, position=3, token_ids=[8]) == [Emit((8,))]
    assert s.tokens == [5, 6, 7, 8]


def test_a_newcomer_lost_in_its_refill_is_replaced_in_turn():
    s = decoding(held={8: 2})
    s.worker_lost(BOB)
    s.rerouted(Span(8, 16), route("dee 8:16"))
    s.worker_lost(DEE)
    eve = route("eve 8:16")
    assert s.rerouted(Span(8, 16), eve) == [Send(eve, 3, 0, 2, acknowledge=True)]
    assert s.filled(DEE, epoch=2, block=16, position=2) == []


def test_several_workers_may_tile_a_gap():
    s = decoding(held={8: 2})
    s.worker_lost(BOB)
    two = route("dee 8:11, eve 11:16")
    assert s.rerouted(Span(8, 16), two) == [Send(two, 2, 0, 2, acknowledge=True)]


def test_a_position_gap_refills_that_worker_from_where_its_cache_ends():
    s = decoding(held={8: 2})
    assert s.refused(BOB, 1, "position_gap", 1, PeerId("")) == [
        Send(ABC[1:2], 2, 1, 1, acknowledge=True)
    ]


def test_workers_that_cannot_go_back_are_not_asked_to_again_and_again():
    s = decoding(held={8: 2, 16: 1})
    s.worker_lost(BOB)
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    s.rerouted(Span(8, 16), line[1:2])
    s.filled(DEE, 2, 16, 2)
    mending = Send(line, 2, 1, 3, sample=True)
    assert mending in s.tokens_arrived(CYD, 2, 3, [8])
    assert s.refused(CYD, 2, "position_gap", 0, PeerId("")) == [
        Send(line[2:], 3, 0, 1, acknowledge=True)
    ]
    behind = Send(line[1:], 3, 1, 1, acknowledge=True)
    assert behind in s.filled(CYD, 3, 24, 1)
    all_again = Send(line[1:], 4, 0, 2, acknowledge=True)
    assert s.refused(DEE, 3, "position_gap", 0, PeerId("")) == [all_again]


def test_a_refusal_of_an_older_epoch_or_of_a_stranger_changes_nothing():
    s = decoding()
    assert s.refused(BOB, 0, "position_gap", 0, PeerId("")) == []
    assert s.refused(DEE, 1, "no_pages", 0, PeerId("")) == []
    assert s.gaps == []


def test_any_other_refusal_loses_the_worker_and_an_unreachable_one_is_the_one_named():
    s = decoding()
    s.refused(BOB, 1, "no_pages", 0, PeerId(""))
    assert s.gaps == [Span(8, 16)]
    s = decoding()
    s.refused(ANN, 1, "next_unreachable", 0, BOB)
    assert s.gaps == [Span(8, 16)]


def test_the_hop_before_gave_the_inputs():
    s = decoding()
    assert s.before(BOB) == ABC[0]
    assert s.before(ANN) is None
    s.refused(BOB, 1, "bad_inputs", 0, ANN)
    assert s.gaps == [Span(0, 8)]


def test_a_worker_that_reports_gaps_for_ever_is_lost():
    s = decoding(held={8: 2})
    for _ in range(17):
        s.refused(BOB, s.epoch, "position_gap", 0, PeerId(""))
    assert s.gaps == [Span(8, 16)]


def test_silence_is_blamed_on_the_first_hop_not_known_to_have_done_its_part():
    s = decoding()
    assert s.suspect() == ANN
    s.checkpointed(ANN, epoch=1, block=8, position=2, count=1)
    assert s.suspect() == BOB
    s.checkpointed(BOB, epoch=1, block=16, position=2, count=1)
    assert s.suspect() == CYD


def test_a_checkpoint_of_an_older_epoch_or_beyond_a_hole_says_nothing_of_a_cache():
    s = decoding()
    s.checkpointed(ANN, epoch=0, block=8, position=2, count=1)
    s.checkpointed(ANN, epoch=1, block=8, position=9, count=1)
    assert s.suspect() == ANN


def guessing(*guesses: int) -> Session:
    """A session that guesses these tokens at every step, its first token, 7, just arrived."""
    s = Session(
        PROMPT,
        BLOCKS,
        max_tokens=100,
        stop_ids=frozenset({99}),
        chunk_tokens=512,
        held=lambda block: 0,
        propose=lambda tokens: guesses,
    )
    s.rerouted(BLOCKS, ABC)
    assert s.tokens_arrived(CYD, epoch=1, position=2, token_ids=[7]) == [
        Send(ABC, 1, 2, 1 + len(guesses), sample=True, guesses=guesses),
        Emit((7,)),
    ]
    return s


def test_right_guesses_are_taken_with_the_token_that_follows_them():
    s = guessing(8, 9)
    send, emit = s.tokens_arrived(CYD, epoch=1, position=3, token_ids=[8, 9, 10])
    assert emit == Emit((8, 9, 10))
    assert send == Send(ABC, 1, 5, 3, sample=True, guesses=(8, 9))
    assert (s.guesses.num_guessed, s.guesses.num_right) == (2, 2)


def test_a_wrong_guess_ends_what_is_taken_and_its_place_is_run_again():
    s = guessing(8, 9)
    send, emit = s.tokens_arrived(CYD, epoch=1, position=3, token_ids=[8, 11, 10])
    assert emit == Emit((8, 11))
    assert send == Send(ABC, 1, 4, 3, sample=True, guesses=(8, 9))


def test_outputs_of_wrong_guesses_are_no_checkpoints_however_late_they_come():
    s = guessing(8, 9)
    s.tokens_arrived(CYD, epoch=1, position=3, token_ids=[11, 9, 10])
    s.tokens_arrived(CYD, epoch=1, position=4, token_ids=[12, 9, 10])
    assert s.checkpointed(ANN, epoch=1, block=8, position=2, count=3) == 1


def test_a_stop_id_among_right_guesses_ends_the_session_there():
    s = guessing(99, 9)
    assert s.tokens_arrived(CYD, epoch=1, position=3, token_ids=[99, 9, 10]) == [Emit((99,))]
    assert s.is_over


def test_reused_positions_are_not_sent_unless_a_hop_lacks_them():
    s = Session(
        range(10),
        BLOCKS,
        max_tokens=9,
        stop_ids=set(),
        chunk_tokens=512,
        held=lambda b: 10 * (b < 1),
    )
    assert s.rerouted(BLOCKS, ABC, reused=8) == [Send(ABC, 1, 8, 2, sample=True)]
    refill, step = Send(ABC[:2], 2, 4, 4, acknowledge=True), Send(ABC, 2, 8, 2, sample=True)
    assert s.refused(BOB, 1, "position_gap", 4, PeerId("")) == [refill, step]


# --- texts that are scored ---

LIKELY = TokenLogprobs(-1.0, rank=1)


def scoring(held: dict[int, int] | None = None) -> Session:
    """A session of six tokens, sent four at a time, five of which are scored."""
    prompt = (5, 6, 7, 8, 9)
    return session(held, prompt=(*prompt, 4), num_scored=6, chunk_tokens=4)  # type: ignore[arg-type]


def test_each_chunk_of_a_scored_prompt_asks_for_the_tokens_that_follow_its_inputs():
    s = Session(
        range(6),
        BLOCKS,
        max_tokens=9,
        stop_ids=set(),
        chunk_tokens=4,
        held=lambda b: 6,
        num_scored=6,
    )
    assert s.rerouted(BLOCKS, ABC) == [
        Send(ABC, 1, 0, 4, scored=4),
        Send(ABC, 1, 4, 2, sample=True, scored=1),
    ]


def test_what_is_made_after_a_scored_prompt_is_not_scored():
    s = scoring()
    s.scores_arrived(CYD, 1, 1, (LIKELY,) * 5)
    assert s.tokens_arrived(CYD, 1, 6, [3]) == [Send(ABC, 1, 6, 1, sample=True), Emit((3,))]


def test_scores_are_emitted_as_they_come_and_each_once():
    s = scoring()
    assert s.scores_arrived(CYD, 1, 1, (LIKELY, LIKELY)) == [EmitScores((LIKELY, LIKELY))]
    assert s.scores_arrived(CYD, 1, 1, (LIKELY, LIKELY)) == []
    assert s.scores_arrived(CYD, 1, 4, (LIKELY,)) == []
    assert s.scores_arrived(CYD, 1, 3, (LIKELY,)) == [EmitScores((LIKELY,))]


def test_scores_of_others_of_an_older_route_or_beyond_the_prompt_change_nothing():
    s = scoring()
    assert s.scores_arrived(BOB, 1, 1, (LIKELY,)) == []
    assert s.scores_arrived(CYD, 0, 1, (LIKELY,)) == []
    assert s.scores_arrived(CYD, 1, 1, (LIKELY,) * 6) == []
    assert session().scores_arrived(CYD, 1, 1, (LIKELY,)) == []


def test_no_token_counts_before_all_scores_have_come():
    s = scoring()
    s.scores_arrived(CYD, 1, 1, (LIKELY,) * 4)
    assert s.tokens_arrived(CYD, 1, 6, [3]) == []
    s.scores_arrived(CYD, 1, 5, (LIKELY,))
    assert s.tokens_arrived(CYD, 1, 6, [3])


def test_a_loss_costs_no_scores_and_what_was_scored_is_refilled_without():
    s = scoring()
    s.scores_arrived(CYD, 1, 1, (LIKELY, LIKELY))
    s.worker_lost(BOB)
    new = route("ann 0:8, dee 8:16, cyd 16:24")
    assert s.rerouted(Span(8, 16), new[1:2]) == [
        Send(new[:2], 2, 0, 2, acknowledge=True),
        Send(new, 2, 2, 4, sample=True, scored=3),
    ]
    assert s.filled(DEE, 2, 16, 2) == []
