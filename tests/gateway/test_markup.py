"""Recorded answers of many families: each is told the same however it is cut."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.markup.calls import listed
from gateway.markup.dialect import Dialect, ToolFormat, dialect_of
from gateway.markup.incoming import Arguments, Begun, Done, Event, Incoming, Reading, Shown
from gateway.markup.incoming import Thinking as Thought
from gateway.markup.reader import Reader, plain

THINK = ("<think>", "</think>")


def knows(name: str) -> bool:
    return name in ("f", "g", "get_weather")


def reading(
    tool_format: ToolFormat = "hermes",
    thoughts: tuple[str, str] | None = None,
    *,
    is_open: bool = False,
) -> Callable[[Incoming], Reading]:
    dialect = Dialect(tool_format, thoughts)
    return lambda source: dialect.reading(source, knows, is_open=is_open)


def told(read: Callable[[Incoming], Reading], pieces: list[str]) -> list[Event]:
    """The events, those joined that only the cuts have parted."""
    reader, whole = Reader(read), list[Event]()
    for event in [e for piece in pieces for e in reader.feed(piece)] + reader.end():
        match whole[-1] if whole else None, event:
            case Shown() as last, Shown() if last.start + len(last.text) == event.start:
                whole[-1] = Shown(last.text + event.text, last.start)
            case Thought() as last, Thought():
                whole[-1] = Thought(last.text + event.text, last.start)
            case Arguments() as last, Arguments():
                whole[-1] = Arguments(last.fragment + event.fragment)
            case _:
                whole.append(event)
    return whole


def brief(events: list[Event]) -> list[str]:
    """Events as short words: text, (thoughts), name{arguments} with ! for a whole call."""
    words: list[str] = []
    for event in events:
        match event:
            case Shown(text):
                words.append(text)
            case Thought(text):
                words.append(f"({text})")
            case Begun(name):
                words.append(name)
            case Arguments(fragment):
                words[-1] += fragment
            case Done(is_complete):
                words[-1] += "!" if is_complete else "?"
    return words


RECORDED: list[tuple[Callable[[Incoming], Reading], str, list[str]]] = [
    # Hermes, Qwen
    (reading(), "Just text.\n", ["Just text.\n"]),
    (
        reading(),
        'Let me see.\n<tool_call>\n{"name": "f", "arguments": {"a": "}</tool_call>"}}\n'
        '</tool_call>\n<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
        ["Let me see.", 'f{"a": "}</tool_call>"}!', "g{}!"],
    ),
    (
        reading(),
        '<tool_call>{"arguments": {"b": 1}, "name": "g"}</tool_call> Done. ',
        ['g{"b": 1}!', "Done. "],
    ),
    (reading(), '<tool_call>{"name": "f"}</tool_call>', ["f{}!"]),
    (
        reading(),
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
        ['f{"a": 1}!'],
    ),
    (
        reading(),
        '<tool_call>{"name": "f", "arguments": {"a": [1, ',
        ['f{"a": [1, ?'],
    ),
    (
        reading(),
        '<tool_call>{"name": "f", "arguments": {"a": oops}}</tool_call>x',
        ['f{"a": oops}?', "x"],
    ),
    (
        reading(),
        'A <tool_call>{"name": "f" oops</tool_call> B',
        ['A <tool_call>{"name": "f" oops</tool_call> B'],
    ),
    (
        reading(),
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        ['<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'],
    ),
    (reading(), "1 <tool_call", ["1 <tool_call"]),
    (
        reading(),
        '<tool_call>{"name": "f", "arguments": {}, "id": "c1"}</tool_call>.',
        ["f{}!", "."],
    ),
    # thoughts before it
    (
        reading(thoughts=THINK),
        "<think>\nHm, <tool_call>?\n</think>\n\n"
        '<tool_call>{"name": "f", "arguments": {}}</tool_call>',
        ["(Hm, <tool_call>?)", "f{}!"],
    ),
    (reading(thoughts=THINK, is_open=True), "Hm.\n</think>\n\nYes. ", ["(Hm.)", "Yes. "]),
    (reading(thoughts=THINK, is_open=True), "<think>Hm.</think>Yes.", ["(Hm.)", "Yes."]),
    (reading(thoughts=THINK, is_open=True), "Hm, and then", ["(Hm, and then)"]),
    (reading(thoughts=THINK), "<thinner>", ["<thinner>"]),
    (reading(thoughts=THINK), " Yes.", [" Yes."]),
    (reading(thoughts=("[THINK]", "[/THINK]")), "[THINK]a[/THINK]b", ["(a)", "b"]),
    # Llama 3
    (
        reading("llama"),
        '<|python_tag|>{"name": "f", "parameters": {"q": {}}}; {"name": "g", "parameters": {}}',
        ['f{"q": {}}!', "g{}!"],
    ),
    (
        reading("llama"),
        '\n{"type": "function", "name": "f", "parameters": {"a": "b"}}',
        ['f{"a": "b"}!'],
    ),
    (reading("llama"), '{"answer": 42}', ['{"answer": 42}']),
    (
        reading("llama"),
        '{"name": "Bob", "parameters": {}}',
        ['{"name": "Bob", "parameters": {}}'],
    ),
    (reading("llama"), 'So {"name": "f", ', ['So {"name": "f", ']),
    # Mistral, before and since v11
    (
        reading("mistral"),
        '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}, "id": "abcdefghi"}, '
        '{"name": "g", "arguments": {}}]',
        ['f{"x": 1}!', "g{}!"],
    ),
    (
        reading("mistral"),
        'Yes.[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[CALL_ID]abc[ARGS]{}',
        ["Yes.", 'f{"x": 1}!', "g{}!"],
    ),
    (reading("mistral"), "[TOOL_CALLS] none at all", ["[TOOL_CALLS] none at all"]),
    (reading("mistral"), "[TOOL_CALLS][1, 2]", ["[TOOL_CALLS][1, 2]"]),
    # Python
    (
        reading("pythonic"),
        "[get_weather(city='Paris', days=[1, 2], deep={\"k\": true}), f()]",
        ['get_weather{"city": "Paris", "days": [1, 2], "deep": {"k": true}}!', "f{}!"],
    ),
    (
        reading("pythonic"),
        '<|python_start|>[f(a=")]\'", b=-1.5)]<|python_end|> ok',
        ['f{"a": ")]\'", "b": -1.5}!', "ok"],
    ),
    (reading("pythonic"), "[1, 2, 3]", ["[1, 2, 3]"]),
    (reading("pythonic"), "[f(1)] [x", ["[f(1)] [x"]),
    (reading("pythonic"), "[f(a=__import__('os'))]", ["[f(a=__import__('os'))]"]),
    (reading("pythonic"), "[f(a=1e999)]", ["[f(a=1e999)]"]),
    (reading("pythonic"), "[f(a=", ["[f(a="]),
    (reading("pythonic"), "[unknown(a=1)]", ["[unknown(a=1)]"]),
    # gpt-oss
    (
        reading("harmony"),
        "<|channel|>analysis<|message|>Need f.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.f <|constrain|>json<|message|>{"a":1}<|call|>',
        ["(Need f.)", 'f{"a":1}!'],
    ),
    (
        reading("harmony"),
        "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant to=functions.g"
        "<|channel|>commentary<|message|>{",
        ["Wait.", "g{?"],
    ),
    (
        reading("harmony"),
        "<|channel|>analysis<|message|>Hm<|end|>\n<|start|>assistant<|channel|>final<|message|>Hi",
        ["(Hm)", "Hi"],
    ),
    (reading("harmony"), "Plain.", ["Plain."]),
    (reading("harmony"), "<|channel|>analys", []),
    # what a grammar forces
    (
        lambda source: listed(source, knows),
        '[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
        ['f{"a": 1}!', "g{}!"],
    ),
    (lambda source: listed(source, knows), '{"name": "f", "arguments": {"a": 1}}', ['f{"a": 1}!']),
    (lambda source: listed(source, knows), '[{"name": "f", "arguments": {"a', ['f{"a?']),
    (plain, " <think>x", [" <think>x"]),
]


@pytest.mark.parametrize(("read", "text", "expected"), RECORDED)
def test_recorded_answers_are_told_whole_and_letter_by_letter(
    read: Callable[[Incoming], Reading], text: str, expected: list[str]
):
    assert brief(told(read, [text])) == expected
    assert brief(told(read, list(text))) == expected


SCRAPS = [
    "<tool_call>",
    "</tool_call>",
    '{"name": "f", "arguments": {',
    '"a": ',
    '"x}"',
    "}",
    "}}",
    "[",
    "]",
    ", ",
    "\n",
    " ",
    "word",
    "[TOOL_CALLS]",
    "f[ARGS]{",
    "<think>",
    "</think>",
    "<|channel|>analysis<|message|>",
    "<|start|>assistant",
    "<|end|>",
    "to=functions.f<|message|>",
    "[f(a=",
    "1)]",
    "\\",
    '"',
    "<",
]


@settings(max_examples=300)
@given(
    tool_format=st.sampled_from(["hermes", "llama", "mistral", "pythonic", "harmony"]),
    has_thoughts=st.booleans(),
    is_open=st.booleans(),
    scraps=st.lists(st.sampled_from(SCRAPS), max_size=10),
    cuts=st.lists(st.integers(0, 120), max_size=6),
)
def test_whatever_comes_is_told_the_same_however_it_is_cut(
    tool_format: ToolFormat,
    has_thoughts: bool,
    is_open: bool,
    scraps: list[str],
    cuts: list[int],
):
    text = "".join(scraps)
    read = reading(tool_format, THINK if has_thoughts else None, is_open=is_open)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    whole = told(read, [text])
    assert told(read, [text[start:end] for start, end in pairwise(edges)]) == whole
    assert told(read, list(text)) == whole
    for event in whole:
        if isinstance(event, Shown):
            assert text[event.start :].startswith(event.text)


def test_arguments_come_as_they_are_written_not_when_they_are_whole():
    reader = Reader(reading())
    reader.feed('<tool_call>{"name": "f", "arguments": ')
    assert reader.feed('{"a": "long') == [Begun("f"), Arguments('{"a": "long')]
    assert reader.feed(" text") == [Arguments(" text")]


def test_text_is_told_with_its_place_also_when_nothing_is_looked_for_any_more():
    reader = Reader(plain)
    assert [*reader.feed("one"), *reader.feed(" two")] == [Shown("one", 0), Shown(" two", 3)]
    reader = Reader(reading())
    told = [
        event
        for piece in ("<think>", "hm", "</think>", "a", "bc", "d")
        for event in reader.feed(piece)
    ]
    assert told[-3:] == [Shown("a", 17), Shown("bc", 18), Shown("d", 20)]


def test_plain_text_is_not_held_back():
    reader = Reader(reading())
    assert [brief(reader.feed(letter)) for letter in "a b"] == [["a"], [], [" b"]]
    reader = Reader(reading("llama"))
    assert brief(reader.feed('{"answer":' + "1" * 600)) != []


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages }}", Dialect()),
        ("<tool_call> <think>{{ tools }}", Dialect("hermes", THINK)),
        ("{{ '[TOOL_CALLS]' }}", Dialect("mistral")),
        ("Environment: ipython", Dialect("llama")),
        ("<|python_start|>", Dialect("pythonic")),
        ("<|start|>assistant<|channel|>final<|message|>", Dialect("harmony")),
        ("{% if '</think>' in content %}", Dialect("hermes", THINK)),
    ],
)
def test_the_template_s_text_tells_the_dialect(template: str, expected: Dialect):
    assert dialect_of(template) == expected


def test_an_operator_knows_better():
    assert dialect_of("<tool_call>", "llama").tool_format == "llama"


def test_a_prompt_that_ends_in_an_open_thought_is_known():
    dialect = Dialect("hermes", THINK)
    assert dialect.opens_thoughts("<|im_start|>assistant\n<think>\n")
    assert not dialect.opens_thoughts("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not Dialect().opens_thoughts("<think>")
