"""Which marks a model's answers bear, read off the text of its chat template. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gateway.markup.calls import Accepts, llama, mistral, tagged
from gateway.markup.harmony import MARKERS, harmony
from gateway.markup.incoming import Incoming, Reading, Shown, Thinking
from gateway.markup.pythonic import pythonic

ToolFormat = Literal["hermes", "llama", "mistral", "pythonic", "harmony"]

DEFAULT: Final[ToolFormat] = "hermes"

THOUGHTS: Final = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
)

SIGNS: Final[tuple[tuple[ToolFormat, tuple[str, ...]], ...]] = (
    ("harmony", ("<|channel|>",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("hermes", ("<tool_call>",)),
    ("pythonic", ("<|python_start|>", "[func_name1(")),
    ("llama", ("<|python_tag|>", "Environment: ipython", '{"name": function name')),
)
"""What only templates of that format have in them."""

MARKS: Final[Mapping[ToolFormat, frozenset[str]]] = {
    "hermes": frozenset({"<tool_call>", "</tool_call>"}),
    "llama": frozenset({"<|python_tag|>"}),
    "mistral": frozenset({"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"}),
    "pythonic": frozenset({"<|python_start|>", "<|python_end|>"}),
    "harmony": frozenset(MARKERS),
}

READINGS: Final = {"hermes": tagged, "llama": llama, "mistral": mistral, "pythonic": pythonic}


@dataclass(frozen=True)
class Dialect:
    """How a model marks its calls and its thoughts."""

    tool_format: ToolFormat = "hermes"
    thoughts: tuple[str, str] | None = None

    @property
    def markers(self) -> frozenset[str]:
        """The special tokens that bear meaning, where they are special."""
        return MARKS[self.tool_format] | frozenset(self.thoughts or ())

    def opens_thoughts(self, prompt: str) -> bool:
        """Whether the model, asked to go on after this prompt, is thinking already."""
        return self.thoughts is not None and prompt.rstrip().endswith(self.thoughts[0])

    def reading(self, source: Incoming, accepts: Accepts | None, *, is_open: bool) -> Reading:
        """Reads an answer; without `accepts` no calls are looked for."""
        if self.tool_format == "harmony":
            yield from harmony(source, accepts or _nothing)
            return
        if self.thoughts:
            yield from _thinking(source, *self.thoughts, is_open=is_open)
        if accepts:
            yield from READINGS[self.tool_format](source, accepts)
        else:
            yield from source.rest(Shown)


def dialect_of(template: str, tool_format: ToolFormat | None = None) -> Dialect:
    """The dialect of the models that a template is for, or as an operator knows it to be."""
    thoughts = (pair for pair in THOUGHTS if pair[0] in template or pair[1] in template)
    return Dialect(tool_format or _format_of(template), next(thoughts, None))


def _format_of(template: str) -> ToolFormat:
    for name, signs in SIGNS:
        if any(sign in template for sign in signs):
            return name
    return DEFAULT


def _thinking(source: Incoming, opener: str, closer: str, *, is_open: bool) -> Reading:
    """Thoughts at the beginning, if there are any."""
    is_marked = yield from source.accept(opener)
    if not (is_marked or is_open):
        return
    source.is_thinking = True
    yield from source.skip_space()
    yield from source.until((closer,), Thinking)
    yield from source.accept(closer)
    source.is_thinking = False
    yield from source.skip_space()


def _nothing(_: str) -> bool:
    return False
