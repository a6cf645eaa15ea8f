"""Which waiting steps run together."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from shared.swarm import SessionId, Span
from worker.batcher import choose
from worker.parts import PartKey

WHOLE, HALF = Span(0, 8), Span(4, 8)


@dataclass(frozen=True, eq=False)
class Item:
    """A waiting step."""

    key: PartKey
    count: int
    is_bulky: bool = False


def item(session: int, count: int = 1, span: Span = WHOLE, is_bulky: bool = False) -> Item:
    return Item((SessionId(bytes([session]) * 16), span), count, is_bulky)


spans = st.sampled_from([WHOLE, HALF])
waitings = st.lists(
    st.builds(item, st.integers(0, 5), st.integers(1, 20), spans, st.booleans()), max_size=12
)
budgets = st.integers(1, 24)


def test_nothing_waits_nothing_runs():
    assert choose([], 10) == []


def test_steps_of_many_sessions_share_a_batch_decodes_first():
    long, one, other = item(1, 5), item(2), item(3)
    assert choose([long, one, other], 10) == [one, other, long]


def test_a_session_s_second_step_waits_for_its_first():
    first, second, other = item(1, 4), item(1), item(2)
    assert choose([first, second, other], 10) == [other, first]


def test_prefills_share_the_budget_that_decodes_leave():
    one, short, long, fits = item(1), item(2, 4), item(3, 6), item(4, 5)
    assert choose([one, short, long, fits], 10) == [one, short, fits]


def test_one_prefill_always_runs_however_large():
    huge, decodes = item(1, 99), [item(n) for n in range(2, 7)]
    assert choose([huge], 10) == [huge]
    assert choose([*decodes, huge], 4) == [*decodes[:4], huge]


def test_of_the_texts_that_are_scored_or_read_one_runs_at_a_time_and_others_beside_it():
    scored, other = item(1, 4, is_bulky=True), item(2, 3, is_bulky=True)
    plain, decode = item(3, 2), item(4, is_bulky=True)
    assert choose([scored, other, plain, decode], 20) == [decode, scored, plain]


def test_a_batch_is_for_the_span_that_has_waited_longest():
    half, whole = item(1, span=HALF), item(1)
    assert choose([half, whole], 10) == [half]
    assert choose([whole, half], 10) == [whole]


@given(waitings, budgets)
def test_the_longest_waiting_step_always_runs(waiting: list[Item], budget: int):
    assert (
        choose(waiting, budget)[:1] == [] if not waiting else waiting[0] in choose(waiting, budget)
    )


@given(waitings, budgets)
def test_every_batch_keeps_the_rules(waiting: list[Item], budget: int):
    batch = choose(waiting, budget)
    assert len({step.key for step in batch}) == len(batch)
    assert len({step.key[1] for step in batch}) <= 1
    for step in batch:
        earlier = waiting[: waiting.index(step)]
        assert all(other.key != step.key for other in earlier)
    prefills = [step.count for step in batch if step.count > 1]
    assert [step.count > 1 for step in batch] == sorted(step.count > 1 for step in batch)
    assert sum(step.count for step in batch) <= budget or len(prefills) <= 1
    assert len(batch) - len(prefills) <= budget
    assert len([step for step in batch if step.is_bulky and step.count > 1]) <= 1


@given(waitings, budgets)
def test_all_steps_run_and_those_of_one_session_in_order(waiting: list[Item], budget: int):
    ran: list[Item] = []
    left = list(waiting)
    while left:
        batch = choose(left, budget)
        assert batch
        ran += batch
        left = [step for step in left if step not in batch]
    for key in {step.key for step in waiting}:
        assert [s for s in ran if s.key == key] == [s for s in waiting if s.key == key]
