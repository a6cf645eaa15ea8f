"""Workers that shadow a hop: fed beside the route, they take its place without a pause."""

import pytest

from gateway.actions import Emit, Send
from gateway.session import Session
from gateway.shadows import MAX_FILLS, NEAR_TOKENS, PATIENT_FILLS, Shadow
from shared.swarm import Hop, PeerId, Span
from tests.gateway.test_session import ABC, ANN, BOB, CYD, DEE, EVE, decoding, route

DEE_FOR_BOB = route("dee 8:16")
BOBS = Hop(BOB, Span(8, 16))


def shadowed(held: int = 2, *, takes_over: bool = True, hops=DEE_FOR_BOB) -> Session:
    """Decoding at position 2, with `hops` shadowing bob, of whose inputs `held` are held."""
    s = decoding(held={8: held})
    s.shadow(BOBS, hops, takes_over=takes_over)
    return s


def fed(shadow: Shadow) -> tuple[int, int]:
    return shadow.filled, shadow.sent


def test_a_shadow_is_fed_what_is_held_in_an_epoch_of_its_own():
    s = decoding(held={8: 2})
    assert s.shadow(BOBS, DEE_FOR_BOB) == [Send(DEE_FOR_BOB, 2, 0, 2, acknowledge=True)]
    assert (s.epoch, s.last_epoch) == (1, 2)


def test_a_shadow_of_the_first_hop_is_fed_token_ids_the_unanswered_one_too():
    s = decoding()
    dee = route("dee 0:8")
    assert s.shadow(ABC[0], dee) == [Send(dee, 2, 0, 3, acknowledge=True)]


def test_no_more_than_some_fills_are_under_way():
    held = {8: 2}
    s = decoding(held)
    s.shadow(BOBS, DEE_FOR_BOB)
    for position in range(2, 6):
        held[8] = position + 1
        s.tokens_arrived(CYD, 1, position + 1, [7])
    shadow = s.shadow_of(BOBS)
    assert shadow is not None
    assert fed(shadow) == (0, 3)  # MAX_FILLS of them
    assert MAX_FILLS == 2
    assert s.filled(DEE, 2, 16, 2) == [Send(DEE_FOR_BOB, 2, 3, 3, acknowledge=True)]


def test_one_that_has_caught_up_takes_over_between_two_steps():
    s = shadowed(held=3)
    s.filled(DEE, 2, 16, 3)
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    assert s.tokens_arrived(CYD, 1, 3, [8]) == [Send(line, 3, 3, 1, sample=True), Emit((8,))]
    assert s.workers == {ANN, DEE, CYD}
    assert s.num_moves == 1


def test_one_that_is_near_is_waited_for():
    s = shadowed(held=3)
    assert s.tokens_arrived(CYD, 1, 3, [8]) == [Emit((8,))]
    assert s.suspect() == DEE
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    assert s.filled(DEE, 2, 16, 3) == [Send(line, 3, 3, 1, sample=True)]


@pytest.mark.parametrize("held", [2, 0])
def test_one_that_is_not_is_not(held: int):
    s = shadowed(held=held)
    assert s.tokens_arrived(CYD, 1, 3, [8])[0] == Send(ABC, 1, 3, 1, sample=True)


def test_far_behind_is_not_near():
    shadow = Shadow(BOBS, DEE_FOR_BOB, epoch=1)
    shadow.fill_to(NEAR_TOKENS + 1)
    assert not shadow.is_near(NEAR_TOKENS + 1)
    shadow.reached(DEE, 16, NEAR_TOKENS + 1)
    assert shadow.is_near(NEAR_TOKENS + 2) is False  # what it lacks was not even sent
    shadow.fill_to(NEAR_TOKENS + 2)
    assert shadow.is_near(NEAR_TOKENS + 2)


def test_one_with_two_fills_to_run_is_waited_for_when_a_step_more_brings_it_no_nearer():
    s = shadowed(held=2)
    assert s.tokens_arrived(CYD, 1, 3, [8])[0] == Send(ABC, 1, 3, 1, sample=True)
    shadow = Shadow(BOBS, DEE_FOR_BOB, epoch=1)
    shadow.fill_to(1)
    waited = []
    for end in range(2, PATIENT_FILLS + 3):
        shadow.fill_to(end)
        waited.append(shadow.is_near(end))
        shadow.reached(DEE, 16, end - 1)
        assert shadow.is_near(end)  # one is done
    assert waited == [False] * (PATIENT_FILLS - 1) + [True, True]


def test_a_standby_stays_beside_the_route():
    s = shadowed(held=3, takes_over=False)
    s.filled(DEE, 2, 16, 3)
    assert s.tokens_arrived(CYD, 1, 3, [8])[0] == Send(ABC, 1, 3, 1, sample=True)
    assert s.workers == {ANN, BOB, CYD, DEE}


def test_a_standby_stands_in_with_what_it_has():
    s = shadowed(held=3, takes_over=False)
    s.checkpointed(ANN, 1, 8, 2, 1)
    s.filled(DEE, 2, 16, 3)
    s.worker_lost(BOB)
    assert s.stand_ins(Span(8, 16)) == DEE_FOR_BOB
    line = route("ann 0:8, dee 8:16, cyd 16:24")
    assert s.rerouted(Span(8, 16), DEE_FOR_BOB) == [Send(line[1:], 3, 2, 1, sample=True)]


def test_standbys_of_neighbours_stand_in_together():
    s = shadowed(takes_over=False)
    eve = route("eve 16:24")
    s.shadow(ABC[2], eve)
    s.worker_lost(BOB)
    s.worker_lost(CYD)
    assert s.stand_ins(Span(8, 24)) == DEE_FOR_BOB + eve


def test_a_gap_that_lacks_a_standby_has_none():
    s = shadowed(takes_over=False)
    s.worker_lost(BOB)
    s.worker_lost(CYD)
    assert s.stand_ins(Span(8, 24)) is None


@pytest.mark.parametrize(
    "lose",
    [
        lambda s: s.worker_lost(DEE),
        lambda s: s.refused(DEE, 2, "no_pages", 0, PeerId("")),
    ],
    ids=["lost", "refused"],
)
def test_a_shadow_that_fails_is_gone_and_the_step_that_waited_goes_on(lose):
    s = shadowed(held=3)
    s.tokens_arrived(CYD, 1, 3, [8])
    assert lose(s) == [Send(ABC, 1, 3, 1, sample=True)]
    assert not s.is_shadowed
    assert s.gaps == []


def test_a_shadow_goes_with_its_hop():
    s = shadowed()
    s.worker_lost(BOB)
    s.rerouted(Span(8, 16), route("eve 8:16"))
    assert s.workers == {ANN, EVE, CYD}


def test_inputs_that_may_be_wrong_guesses_are_not_fed():
    s = shadowed(held=3, takes_over=False)
    s.guesses.pending = (8, 9)
    s.filled(DEE, 2, 16, 3)
    assert s.feed_shadows() == []


def test_nobody_shadows_a_hop_that_is_gone_or_serves_it_already():
    s = decoding()
    assert s.shadow(Hop(EVE, Span(8, 16)), DEE_FOR_BOB) == []
    assert s.shadow(BOBS, ABC[1:2]) == []
    assert not s.is_shadowed
