"""Whatever goes wrong around them, streams give the tokens they would have given."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.swarm.chaos import Chaos, Plan
from tests.swarm.crowd import Crowd
from tests.swarm.faults import MAX_LATE, WEIGHTS, Injector, draw, garbage
from tests.swarm.ledger import Ledger
from tests.swarm.members import Holes, Population
from tests.swarm.memory import Memory
from tests.swarm.report import Outcome
from tests.swarm.streams import Hearing, Verdict

PLAN = Plan(
    seed=2547,  # faults of every kind, those whose traces last longest at the beginning
    faults=15,
    every_seconds=0.6,
    longest_seconds=4.0,
    tokens=120,
    gateway=("--step-timeout-seconds=5",),
)


@pytest.mark.timeout(240)  # 40 s where nobody else wants the processor
async def test_streams_are_as_they_would_have_been_and_nothing_is_left_behind(tmp_path: Path):
    outcome = await Chaos(PLAN, tmp_path).run()
    assert outcome.verdict() == []
    assert len(outcome.ledger.faults) == PLAN.faults
    assert outcome.ledger.streams > PLAN.streams


def test_a_seed_gives_the_same_faults_twice_and_each_kind_sooner_or_later():
    def drawn(seed: int) -> list[tuple[Any, ...]]:
        rng = random.Random(seed)
        faults = [draw(rng, WEIGHTS, 20.0) for _ in range(300)]
        return [(f.kind, f.pick, f.seconds, f.way, f.hits_all, f.is_rude) for f in faults]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert {fault[0] for fault in drawn(1)} == set(WEIGHTS)


@pytest.mark.parametrize("is_masked", [True, False])
def test_garbage_is_never_nothing(is_masked: bool):
    rng = random.Random(1)
    assert all(garbage(rng, is_masked=is_masked) for _ in range(100))


def heard(text: str, **facts: Any) -> Hearing:
    hearing = Hearing({})
    hearing.text = text
    hearing.finish_reason = "stop"
    for name, fact in facts.items():
        setattr(hearing, name, fact)
    return hearing


def token(character: str, logprob: float) -> dict[str, Any]:
    return {"bytes": [ord(character)], "logprob": logprob}


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (heard("abc"), Verdict(0, 0)),
        (heard("abd"), Verdict(1, 0)),
        (heard("ab"), Verdict(0, 1)),
        (heard("abcd"), Verdict(1, 0)),
        (heard("abc", finish_reason="length"), Verdict(1, 0)),
        (heard("abc", usage=[1, 2, 3]), Verdict(1, 0)),
    ],
)
def test_a_stream_s_text_finish_and_usage_are_compared(ours: Hearing, verdict: Verdict):
    assert ours.judge(heard("abc"), is_whole=True) == verdict


def test_a_stream_that_was_left_has_to_be_a_beginning():
    assert heard("ab", finish_reason="").judge(heard("abc"), is_whole=False) == Verdict(0, 0)
    assert heard("ax", finish_reason="").judge(heard("abc"), is_whole=False) == Verdict(1, 0)


def test_tokens_and_their_likelihoods_are_compared():
    expected = heard("ab", tokens=[token("a", -1.0), token("b", -2.0)])
    close = heard("ab", tokens=[token("a", -1.0), token("b", -2.00001)])
    assert close.judge(expected, is_whole=True) == Verdict(0, 0)
    unlike = heard("ab", tokens=[token("a", -1.0), token("b", -2.1)])
    assert unlike.judge(expected, is_whole=True) == Verdict(1, 0)


def test_a_gap_belongs_to_the_fault_before_it_and_a_fault_has_its_longest():
    ledger = Ledger()
    ledger.struck(10.0, "cut", "")
    ledger.struck(20.0, "kill", "")
    ledger.heard(9.0, [9.9, 12.9, 13.0, 19.9, 20.1])
    ledger.heard(9.0, [21.0, 21.5])
    assert [(row.kind, [round(s, 1) for s in row.stalls]) for row in ledger.rows()] == [
        ("cut", [6.9]),
        ("kill", [0.5]),
    ]


def test_whatever_must_not_be_is_said():
    assert Outcome(Ledger()).verdict() == []
    ledger = Ledger(wrong=1, lost=2)
    ledger.failed["greedy: worker_lost"] += 3
    ledger.complain("a traceback")
    memory = Memory()
    for minute in range(20):
        memory.note("gateway", 60.0 * minute, 100.0 + 50 * minute)
    assert Outcome(ledger, memory, leaked=4).verdict() == [
        "4 sessions leaked",
        "gateway grew from 350 to 1050 MiB",
        "1 tokens wrong",
        "2 tokens lost",
        "3 streams failed: greedy: worker_lost",
        "a traceback",
    ]


def test_a_hole_lasts_until_every_span_has_a_worker_again():
    holes = Holes()
    holes.note(10.0, is_covered=True)
    holes.note(20.0, is_covered=False)
    holes.note(21.0, is_covered=False)
    assert holes.overlap(25.0, 26.0)
    holes.note(30.0, is_covered=True)
    assert holes.overlap(29.0, 35.0)
    assert not holes.overlap(31.0, 35.0)
    assert not holes.overlap(10.0, 15.0)
    assert holes.lasted(20.0, 30.0)
    assert not holes.lasted(20.0, 30.1)
    holes.note(40.0, is_covered=False)
    assert holes.lasted(41.0, 99.0)


@pytest.mark.parametrize(("num_late", "num_complaints"), [(0, 0), (MAX_LATE - 1, 0), (MAX_LATE, 1)])
async def test_another_newcomer_is_tried_where_one_is_not_up_in_time(
    num_late: int, num_complaints: int
):
    tried: list[str] = []

    class Late(Population):
        async def join(self, span: str) -> Any:
            tried.append(span)
            if len(tried) <= num_late:
                raise TimeoutError

    population, ledger = Late(None, Path(), [], ""), Ledger()  # type: ignore[arg-type]
    injector = Injector(population, ledger, replicas=2, disconnect=lambda _: False)
    population._coming["3:6"] += 1
    assert injector.strike(draw(random.Random(1), {"join": 1}, 1.0))
    await injector.finish()
    assert (ledger.late, len(ledger.complaints)) == (num_late, num_complaints)
    assert tried == ["3:6"] * min(num_late + 1, MAX_LATE)


GAVE_UP = "worker_lost: no worker took over blocks 3:6 within 60 s; the last one refused: full"
NO_ROUTE = "no_worker_available: no worker serves blocks 3:6 of the model at the moment"


@pytest.mark.parametrize(
    ("failure", "began", "bare", "is_honest"),
    [
        (NO_ROUTE, 98.0, (97.5, 98.5), True),  # at once, though somebody came a moment later
        (NO_ROUTE, 98.0, (10.0, 90.0), False),
        (NO_ROUTE, 80.0, (79.0, 100.0), True),  # in a stream that was begun
        (NO_ROUTE, 80.0, (79.0, 90.0), False),
        (GAVE_UP, 10.0, (40.0, 100.0), True),
        (GAVE_UP, 10.0, (45.0, 100.0), False),
        (GAVE_UP.replace("3:6", "0:6"), 10.0, (40.0, 100.0), False),  # 0:3 was there
        ("worker_lost: something else", 10.0, (0.0, 100.0), False),
    ],
)
async def test_a_stream_may_be_given_up_only_while_its_span_has_nobody(
    failure: str, began: float, bare: tuple[float, float], is_honest: bool
):
    population = Population(None, Path(), [], "")  # type: ignore[arg-type]
    population._holes = {"0:3": Holes(), "3:6": Holes([bare])}
    crowd = Crowd(None, {}, {}, Ledger(), population.were_bare)  # type: ignore[arg-type]
    hearing = heard("", failure=failure, began=began)
    assert crowd.had_nobody(hearing, now=100.0) == is_honest
