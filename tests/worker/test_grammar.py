"""A random model held to a grammar: what it says is valid, wherever it goes on."""

import json
import re
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from shared.errors import GrammarError, StepRefused
from shared.model_files import BUNDLED
from shared.wire.codec import pack_ids
from shared.wire.messages import Grammar, Sampling, SamplingContext
from worker import grammar as module
from worker.grammar import Grammars
from worker.sampling import sample
from worker.wants import bent, wants_of

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["bucket", "rope", "ladder"]},
        "sizes": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "kind", "sizes"],
    "additionalProperties": False,
}
BY_SCHEMA = Grammar("json_schema", json.dumps(SCHEMA))
DATE = Grammar("regex", "[0-9]{4}-[0-9]{2}-[0-9]{2}")
VOCABULARY = 1300  # more than the tokenizer knows, as in models with a padded embedding
STOP = 2
STOPS = np.array([STOP], np.int64)


@pytest.fixture
def grammars() -> Iterator[Grammars]:
    made = fresh()
    yield made
    made.close()


def fresh() -> Grammars:
    grammars = Grammars.load(BUNDLED)
    assert grammars is not None
    return grammars


def random_logits(position: int) -> torch.Tensor:
    """What a model without any sense says at a position."""
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(position)) * 3


def step(
    grammars: Grammars, sampling: Sampling, generated: list[int], guesses: tuple[int, ...] = ()
) -> list[int]:
    """The tokens sampled after `generated` and after each of the guesses."""
    last = len(generated) - 1
    context = SamplingContext(sampling, 0, pack_ids([*generated, *guesses]))
    positions = range(last, last + len(guesses) + 1)
    wants = wants_of(context, positions, grammars, VOCABULARY)
    logits = torch.stack([random_logits(position) for position in positions])
    return sample(bent(logits, wants), [sampling] * len(wants), [w.position for w in wants])


def write(grammars: Grammars, sampling: Sampling, generated: list[int] | None = None) -> list[int]:
    """Tokens until the stop id, which is the last."""
    tokens = list(generated or [])
    while not tokens or tokens[-1] != STOP:
        assert len(tokens) < 400
        tokens += step(grammars, sampling, tokens)
    return tokens


def text_of(grammars: Grammars, tokens: list[int]) -> str:
    assert tokens[-1] == STOP
    return grammars._vocabulary.decode_bytes(tokens[:-1]).decode()


def under(grammar: Grammar, seed: int = 1, **changes: object) -> Sampling:
    return Sampling(1.2, seed=seed, grammar=grammar, stop_ids=(STOP,), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_a_model_without_sense_writes_json_that_fits_its_schema(grammars: Grammars, seed: int):
    answer = json.loads(text_of(grammars, write(grammars, under(BY_SCHEMA, seed))))
    assert list(answer) == ["name", "kind", "sizes"]
    assert len(answer["name"]) <= 12
    assert answer["kind"] in ("bucket", "rope", "ladder")
    assert 1 <= len(answer["sizes"]) <= 3
    assert all(type(size) is int for size in answer["sizes"])


def test_regexes_and_lark_hold_as_well(grammars: Grammars):
    assert re.fullmatch(
        "[0-9]{4}-[0-9]{2}-[0-9]{2}", text_of(grammars, write(grammars, under(DATE)))
    )
    lark = Grammar("lark", 'start: "yes" | "no" " "? "never"')
    assert text_of(grammars, write(grammars, under(lark))) in ("yes", "nonever", "no never")


def test_the_end_is_allowed_where_the_text_is_complete_and_nowhere_else(grammars: Grammars):
    digits = Grammar("regex", "[0-9]{2,3}")
    sampling = under(digits, logit_bias=((STOP, 100.0),))
    assert len(text_of(grammars, write(grammars, sampling))) == 2


def test_another_worker_goes_on_in_the_same_words(grammars: Grammars):
    whole = write(grammars, under(BY_SCHEMA, presence_penalty=0.5))
    for kept in (1, len(whole) // 2, len(whole) - 1):
        newcomer = fresh()
        assert write(newcomer, under(BY_SCHEMA, presence_penalty=0.5), whole[:kept]) == whole
        newcomer.close()


def test_sessions_in_the_same_words_do_not_disturb_each_other(grammars: Grammars):
    alone = write(grammars, under(BY_SCHEMA))
    first: list[int] = []
    second: list[int] = []
    for _ in alone:
        first += step(grammars, under(BY_SCHEMA), first)
        second += step(grammars, under(BY_SCHEMA), second)
    assert first == second == alone


@pytest.mark.parametrize("right", [0, 1, 3])
def test_guesses_right_and_wrong_change_no_token(grammars: Grammars, right: int):
    alone = write(grammars, under(BY_SCHEMA))
    tokens: list[int] = []
    while not tokens or tokens[-1] != STOP:
        guesses = (*alone[len(tokens) :][:right], 7, STOP, 9)
        sampled = step(grammars, under(BY_SCHEMA), tokens, guesses)
        assert len(sampled) == len(guesses) + 1
        for token, guess in zip(sampled, (*guesses, -1), strict=True):
            tokens.append(token)
            if token != guess or token == STOP:
                break
    assert tokens == alone


def test_min_tokens_hold_off_the_end_for_as_long_as_the_grammar_has_more(grammars: Grammars):
    many = Grammar("regex", "a{1,6}")
    assert len(write(grammars, under(many, logit_bias=((STOP, 100.0),), min_tokens=2))) == 3
    assert text_of(grammars, write(grammars, under(many, min_tokens=300))) == "aaaaaa"


def test_a_text_that_left_the_grammar_is_refused(grammars: Grammars):
    with pytest.raises(GrammarError, match="does not follow"):
        grammars.masks(DATE, pack_ids([300]), [], stops=STOPS, vocab_size=VOCABULARY)


def test_a_grammar_that_does_not_compile_is_refused_with_the_reason_each_time(grammars: Grammars):
    for _ in range(2):
        with pytest.raises(GrammarError, match="unclosed group"):
            grammars.masks(Grammar("regex", "(a"), b"", [], stops=STOPS, vocab_size=VOCABULARY)


def test_without_a_stop_id_a_finished_text_has_nothing_to_follow(grammars: Grammars):
    sampling = Sampling(grammar=Grammar("regex", "a"))
    with pytest.raises(Exception, match="no token"):
        step(grammars, sampling, step(grammars, sampling, []))


def test_what_is_kept_is_bounded_and_only_saves_work(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
):
    alone = write(grammars, under(BY_SCHEMA))
    monkeypatch.setattr(module, "MAX_GRAMMARS", 1)
    monkeypatch.setattr(module, "MAX_TEXTS", 1)
    tokens: list[int] = []
    for seed in range(len(alone)):
        step(grammars, under(DATE, seed), [])
        tokens += step(grammars, under(BY_SCHEMA), tokens)
        assert len(grammars._compiled) == 1
    assert tokens == alone


def test_whoever_waits_for_a_grammar_hears_when_it_is_compiled(grammars: Grammars):
    ready = threading.Event()
    if not grammars.prepare(BY_SCHEMA, b"", ready.set):
        assert ready.wait(10)
    assert grammars.prepare(BY_SCHEMA)


LONG = Grammar("regex", "[ab]*")
LONG_TEXT = pack_ids(fresh()._vocabulary.tokenize_str("ab" * 5000))


def ready_for(grammars: Grammars, text: bytes) -> bool:
    """Whether a text takes no reading, or none after one wait."""
    ready = threading.Event()
    return grammars.prepare(LONG, text, ready.set) or (ready.wait(10) and grammars.prepare(LONG))


def test_a_long_text_is_read_on_the_thread_that_compiles(grammars: Grammars):
    assert ready_for(grammars, b"")
    ready = threading.Event()
    assert not grammars.prepare(LONG, LONG_TEXT, ready.set)
    assert ready.wait(10)
    assert grammars.prepare(LONG, LONG_TEXT)
    assert grammars.masks(LONG, LONG_TEXT, [], stops=STOPS, vocab_size=VOCABULARY)


def test_a_long_text_that_left_the_grammar_is_read_once(grammars: Grammars):
    assert ready_for(grammars, b"")
    broken = LONG_TEXT + pack_ids([STOP + 1])
    ready = threading.Event()
    assert not grammars.prepare(LONG, broken, ready.set)
    assert ready.wait(10)
    for _ in range(2):
        assert grammars.prepare(LONG, broken)
        with pytest.raises(GrammarError, match="does not follow"):
            grammars.masks(LONG, broken, [], stops=STOPS, vocab_size=VOCABULARY)


def test_what_takes_too_long_to_follow_is_followed_no_more(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SECONDS_A_STEP", 0.0)
    step(grammars, under(LONG), [])  # one mask is had in any case
    guesses = tuple(np.frombuffer(LONG_TEXT[:4], "<i4").tolist())
    for allowed in (0.0, 60.0):
        monkeypatch.setattr(module, "SECONDS_A_STEP", allowed)
        with pytest.raises(StepRefused, match="too long to follow"):
            step(grammars, under(LONG), [], guesses)


def test_guesses_under_a_grammar_have_a_limit(grammars: Grammars):
    most = module.MASKS_AT_ONCE - 1
    ids = np.frombuffer(LONG_TEXT, "<i4").tolist()
    assert len(step(grammars, under(LONG), [], tuple(ids[:most]))) == most + 1
    with pytest.raises(StepRefused, match="may sample"):
        step(grammars, under(LONG), [], tuple(ids[: most + 1]))


def test_a_directory_without_a_tokenizer_gives_no_grammars(tmp_path):
    assert Grammars.load(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert Grammars.load(tmp_path) is None
