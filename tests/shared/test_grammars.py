"""Grammars mean the same to gateways and workers, cost a bounded amount, and fail with reasons."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.errors import GrammarError, ModelError
from shared.grammars import as_lark, compile_grammar, load_vocabulary
from shared.model_files import BUNDLED
from shared.wire.messages import Grammar

VOCABULARY = load_vocabulary(BUNDLED)


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether the whole of `text` follows the grammar."""
    matcher = compile_grammar(grammar, VOCABULARY)
    ids = VOCABULARY.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def schema(value: Any, **changes: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(value), **changes)


def test_json_may_be_written_on_one_line_or_indented_but_not_padded():
    numbers = schema({"type": "object", "additionalProperties": {"type": "integer"}})
    for text in ('{"a":1,"b":2}', '{"a": 1, "b": 2}', '{\n  "a": 1,\n  "b": 2\n}'):
        assert accepts(numbers, text)
    assert not accepts(numbers, '{"a":' + " " * 20 + "1}")
    assert not accepts(numbers, '{"a":\n\n1}')


def test_a_schema_cannot_loosen_the_whitespace():
    loose = {"type": "object", "x-guidance": {"whitespace_pattern": "[ ]*"}}
    assert not accepts(schema(loose), '{"a":   1}')


def test_properties_keep_their_order():
    ordered = schema({"properties": {"b": {}, "a": {}}, "required": ["a", "b"]})
    assert accepts(ordered, '{"b":1,"a":2}')
    assert not accepts(ordered, '{"a":2,"b":1}')


def test_a_keyword_that_cannot_be_kept_is_refused_unless_lenient():
    unique = {"type": "array", "uniqueItems": True}
    with pytest.raises(GrammarError, match="uniqueItems"):
        compile_grammar(schema(unique), VOCABULARY)
    assert accepts(schema(unique, lenient=True), "[1,1]")


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar("json_schema", "{"), "EOF"),
        (Grammar("json_schema", "[1]"), "object"),
        (schema({"type": "nonsense"}), "nonsense"),
        (schema({"$ref": "http://example.com/schema"}), "example.com"),
        (Grammar("regex", "(a"), "unclosed group"),
        (Grammar("lark", "start: nowhere"), "nowhere"),
    ],
)
def test_what_does_not_compile_says_why(grammar: Grammar, reason: str):
    with pytest.raises(GrammarError, match=reason):
        compile_grammar(grammar, VOCABULARY)


def costly() -> list[Grammar]:
    """Grammars that ask for more work or memory than any that people need."""
    objects = [{"type": "object", "properties": {f"a{i}": {"type": "string"}}} for i in range(2500)]
    return [
        schema({"anyOf": objects}),
        schema({"allOf": [{"anyOf": objects[i * 9 : i * 9 + 9]} for i in range(12)]}),
    ]


@pytest.mark.parametrize("grammar", costly())
def test_what_would_cost_too_much_is_refused(grammar: Grammar):
    with pytest.raises(GrammarError):
        compile_grammar(grammar, VOCABULARY)


def test_gbnf_is_turned_to_lark_and_lark_is_left_alone():
    lark = Grammar("lark", 'start: "a" "b"')
    assert as_lark(lark) == lark
    assert accepts(as_lark(Grammar("lark", 'root ::= "a" "b"')), "ab")
    assert as_lark(Grammar("regex", "root ::= a")).text == "root ::= a"
    with pytest.raises(GrammarError):
        as_lark(Grammar("lark", "root ::= ("))


def test_a_tokenizer_that_cannot_be_read_is_a_model_error(tmp_path: Path):
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError):
        load_vocabulary(tmp_path)
