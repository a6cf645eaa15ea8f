"""What a grammar may cost is bounded, and one that crashes its compiler crashes nothing of ours."""

import json
import os
from collections.abc import Iterator

import pytest

from shared.errors import GrammarError
from shared.trial import TOO_COSTLY, Trial
from shared.wire.messages import MAX_GRAMMAR_CHARACTERS, Grammar

LETTERS = "abcdefghijklmnopqrst"


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    trial = Trial()
    yield trial
    trial.close()


def schema(value: object) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


def row_of_references(count: int) -> object:
    chain = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(count)}
    return {"$defs": chain | {f"d{count}": {}}, "$ref": "#/$defs/d0"}


def doubling_references(count: int) -> object:
    twice = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(count)
    }
    return {"$defs": twice | {f"d{count}": {"pattern": "(.*a.*){5}"}}, "$ref": "#/$defs/d0"}


HOSTILE = {
    "takes minutes": schema({"type": "number", "multipleOf": 999_983}),
    "counts letters": schema({"allOf": [{"pattern": f"(.*{x}.*){{5}}"} for x in LETTERS]}),
    "doubles": schema(doubling_references(30)),
    "uses up the stack": schema(row_of_references(1800)),
    "uses up the stack too": Grammar(
        "lark", "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4000)) + 'r4000: "a"'
    ),
    "is converted for a minute": Grammar("lark", "root ::= a" + "\n" * 65_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_grammar_is_refused_and_the_next_one_is_tried(trial: Trial, kind: str):
    assert len(HOSTILE[kind].text) <= MAX_GRAMMAR_CHARACTERS
    with pytest.raises(GrammarError, match=TOO_COSTLY):
        trial.check(HOSTILE[kind])
    assert trial.check(schema({"type": "string"}))


def tool(number: int) -> object:
    """As people's tools are: nested, with enumerations, descriptions and references."""
    return {
        "type": "object",
        "description": "Finds flights, hotels and cars " * 4,
        "properties": {
            "name": {"const": f"tool_{number}"},
            "when": {"type": "string", "format": "date-time"},
            "where": {"$ref": "#/$defs/place"},
            "stops": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 8},
            "kind": {"enum": [f"kind {i}" for i in range(20)]},
            "email": {"type": "string", "pattern": "^[a-z0-9.]+@[a-z0-9]+\\.[a-z]{2,6}$"},
            "price": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]},
        },
        "required": ["name", "where"],
        "additionalProperties": False,
    }


def deep(levels: int) -> object:
    nested: object = {"type": "string"}
    for _ in range(levels):
        nested = {"type": "object", "properties": {"next": nested, "id": {"type": "integer"}}}
    return nested


PLACE = {"type": "object", "properties": {"lat": {"type": "number"}, "name": {"type": "string"}}}
HONEST = {
    "many tools": {"anyOf": [tool(i) for i in range(60)], "$defs": {"place": PLACE}},
    "500 properties": {"properties": {f"property_{i}": {"type": "string"} for i in range(500)}},
    "deep": deep(30),
    "2,000 choices": {"enum": [f"some choice {i}" for i in range(2000)]},
    "any JSON": {"type": "object"},
}


@pytest.mark.parametrize("kind", HONEST)
def test_what_people_ask_for_passes(trial: Trial, kind: str):
    assert trial.check(schema(HONEST[kind])) == schema(HONEST[kind])


def test_what_does_not_compile_says_why(trial: Trial):
    with pytest.raises(GrammarError, match="unclosed group"):
        trial.check(Grammar("regex", "(a"))


def test_gbnf_comes_back_as_lark_and_lark_as_it_is(trial: Trial):
    taken = trial.check(Grammar("lark", 'root ::= "a" "b"'))
    assert "start: " in taken.text
    assert trial.check(taken) == taken


def test_a_process_that_is_gone_is_begun_anew(trial: Trial):
    trial.check(Grammar("regex", "a"))
    assert trial._process
    os.kill(trial._process.pid, 9)
    trial._process.wait()
    with pytest.raises(GrammarError, match="cannot be tried now"):
        trial.check(Grammar("regex", "a"))
    assert trial.check(Grammar("regex", "a"))


def test_a_process_that_does_not_start_is_no_judgement(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(GrammarError, match="does not start"):
        Trial().check(Grammar("regex", "a"))
