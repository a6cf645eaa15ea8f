"""Each guard of the failover is needed: without it, some simulated run goes wrong."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import gateway.session
import worker.sessions
from tests.simulation.line import Faults
from tests.simulation.scenarios import EVERYTHING, SCENARIOS, Tally, run

SEEDS = 400
STANDBY = SCENARIOS["everything, guesses, standby"]
HALF_LOST = Faults(kill=0.05, forget=0.03, lost_checkpoints=0.5)
NOTHING_FORGOTTEN = Faults(kill=0.03, leave=0.05, lost_checkpoints=0.5, scores=True)
SCORED = Faults(kill=0.1, forget=0.05, lost_checkpoints=0.5, repeat=0.1, scores=True)
READ_BESIDE_STANDBYS = Faults(kill=0.05, leave=0.02, standby=True, reads=True)
FAULTS = (EVERYTHING, STANDBY, HALF_LOST, SCORED, READ_BESIDE_STANDBYS)
ALWAYS_IN_TIME = (NOTHING_FORGOTTEN, replace(NOTHING_FORGOTTEN, scores=False, reads=True))

SESSION = {
    "answers of an older route": ("or epoch != self.epoch or position", "or position"),
    "answers to a position that is taken": ("or position != len(self.tokens)", ""),
    "scores of an older route": (
        "if not is_next or epoch != self.epoch or self._is_not_last(worker):",
        "if not is_next or self._is_not_last(worker):",
    ),
    "scores that came already": (
        "position == self._unanswered + 1",
        "position > 0",
    ),
    "a loss costs no scores that came": ("self._unanswered = end - 1", "pass"),
    "states of an older route": ("or states.epoch != self.epoch:", ":"),
    "hops that owe states run again": (">= end and not owes", ">= end"),
    "hops that lag are refilled": ("if filled[hop] < oldest]", "if False]"),
    "a refill goes upstream when a copy is missing": (
        "while first > 0 and self._held(self.route[first].span.start) <= start:",
        "while False:",
    ),
    "a refill ends where its copies end": (
        "end = min(end, self._held(hops[0].span.start))",
        "pass",
    ),
    "a refill arrives before the step is sent": (
        "is_followed = first == self._first_to_run and not",
        "is_followed = not",
    ),
    "the few inputs that a hop lacks go with the step": (
        "start = min(self._unanswered, *(filled[hop] for hop in hops))",
        "start = self._unanswered",
    ),
    "each route has an epoch": (
        "self.epoch = self.last_epoch = self.last_epoch + 1",
        "pass",
    ),
    "a step starts no later than its inputs are held": (
        "while first > 0 and self._held(self.route[first].span.start) < end:",
        "while False:",
    ),
    "copies of wrong guesses are no text": (
        "end = self.guesses.end_of_text(position, position + count)",
        "end = position + count",
    ),
    "shadows are fed nothing that was guessed": (
        "self._unanswered if self.guesses.pending else len(self.tokens)",
        "self.sent",
    ),
    "shadows take over when they have caught up": (
        "if shadow.filled >= self._unanswered:",
        "if True:",
    ),
    "shadows that are lost do not stand in": (
        "self._drop_shadows(worker)\n        return",
        "return",
    ),
    "a step that waited for a shadow goes on without": (
        "return self._go_on() if self._is_waiting and not self.gaps else []",
        "return []",
    ),
}
WORKER = {
    "steps of an older route are dropped": ("step.epoch < part.epoch", "False"),
    "steps beyond the cache are refused": ("if step.position > cached:", "if False:"),
    "steps of a session that is closed are dropped": (
        "return epoch <= self._closed.get",
        "return epoch < -1 <= self._closed.get",
    ),
}


@pytest.mark.parametrize("guard", SESSION)
def test_the_session_needs_its_guard(guard: str):
    assert _goes_wrong(session_class=_mutated(gateway.session, *SESSION[guard]).Session)


@pytest.mark.parametrize("guard", WORKER)
def test_the_worker_needs_its_guard(guard: str):
    assert _goes_wrong(sessions_class=_mutated(worker.sessions, *WORKER[guard]).Sessions)


def test_a_copy_with_all_guards_does_not_go_wrong():
    text, _ = SESSION["answers of an older route"]
    copy = _mutated(gateway.session, text, text).Session
    assert not _goes_wrong(seeds=SEEDS // 8, session_class=copy)


def _goes_wrong(seeds: int = SEEDS, **classes: type) -> bool:
    for seed in range(seeds):
        try:
            if any(_is_bad(run(seed, faults, **classes)) for faults in FAULTS):
                return True
            # steps in order are never sent too early to workers that forget nothing
            if any(run(seed, faults, **classes).gap_refusals for faults in ALWAYS_IN_TIME):
                return True
        except Exception:  # a mutant may come to any end
            return True
    return False


def _is_bad(tally: Tally) -> bool:
    return bool(tally.wrong or tally.leaks or tally.stuck)


def _mutated(module: ModuleType, text: str, mutant: str) -> ModuleType:
    """The module as it would be with `mutant` in place of `text`."""
    assert module.__file__
    source = Path(module.__file__).read_text()
    assert source.count(text) == 1, f"{text!r} stands {source.count(text)} times in the source"
    name = f"{module.__name__}_mutated"
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    exec(compile(source.replace(text, mutant), name, "exec"), made.__dict__)
    return made
