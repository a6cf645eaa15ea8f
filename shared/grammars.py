"""What a grammar of the wire means, by llguidance: gateways check it, last hops follow it.

The text a model makes under a grammar is a function of the grammar, the limits and the options
here, so that they are the same wherever a session goes.
https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from pathlib import Path
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark
from msgspec import structs

from shared.errors import GrammarError, ModelError
from shared.wire.messages import Grammar

LIMITS: Final = LLParserLimits(
    initial_lexer_fuel=300_000,
    step_lexer_fuel=100_000,
    step_max_items=50_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
"""What one grammar may cost. Hostile ones compiled in at most 0.6 s, a mask took at most 4 ms;
real JSON schemas need a hundredth (2-core machine, 1 280 tokens)."""

WHITESPACE: Final = r"[ ]?|\n[ ]{0,16}"
"""Between JSON's tokens: enough to write it on one line or indented. Without a bound, a weak model
may write spaces to its end."""

MAX_REASON_CHARACTERS: Final = 500


def load_vocabulary(directory: Path) -> LLTokenizer:
    """The bytes of a model's tokens. Raises ModelError without a usable tokenizer.json."""
    path = directory / "tokenizer.json"
    try:
        return vocabulary_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} does not read: {error}") from error


def vocabulary_of(serialized: str) -> LLTokenizer:
    """The same from what a tokenizer.json says. Raises ModelError."""
    try:
        return LLTokenizer(serialized)
    except ValueError as error:
        raise ModelError(f"a tokenizer whose tokens' bytes are not known: {error}") from error


def as_lark(grammar: Grammar) -> Grammar:
    """A grammar in llama.cpp's GBNF turned to Lark; any other as it is. Raises GrammarError."""
    if grammar.kind != "lark":
        return grammar
    try:
        return structs.replace(grammar, text=any_to_lark(grammar.text))
    except Exception as error:  # the converter raises whatever it stumbles over
        raise GrammarError(str(error)[:MAX_REASON_CHARACTERS]) from error


def compile_grammar(grammar: Grammar, vocabulary: LLTokenizer) -> LLMatcher:
    """What follows a text by `grammar`, at its beginning. May take a while, see LIMITS.

    Raises GrammarError with the compiler's reason.
    """
    matcher = LLMatcher(vocabulary, _source(grammar), log_level=0, limits=LIMITS)
    probe = matcher.deep_copy()
    probe.compute_bitmask()  # some limits are only met here
    check(probe)
    return matcher


def check(matcher: LLMatcher) -> None:
    """Raises GrammarError when the matcher has failed: llguidance does not raise by itself."""
    if matcher.is_error():
        reason = matcher.get_error().replace("<non-verbose/>", "").strip()
        raise GrammarError(reason[:MAX_REASON_CHARACTERS])


def _source(grammar: Grammar) -> str:
    match grammar.kind:
        case "json_schema":
            try:
                return LLMatcher.grammar_from_json_schema(
                    grammar.text,
                    overrides={"whitespace_pattern": WHITESPACE, "lenient": grammar.lenient},
                )
            except ValueError as error:
                raise GrammarError(str(error)[:MAX_REASON_CHARACTERS]) from error
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.text)
        case "lark":
            return LLMatcher.grammar_from_lark(grammar.text)
