"""A model's chat template: from messages and tools to the text of a prompt."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import jinja2

from gateway.markup.telling import told
from shared.errors import RequestError

BLOCKS: Final = re.compile(r"\{[%{](.*?)[%}]\}", re.DOTALL)
LITERALS: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


@dataclass(frozen=True)
class Wording:
    """How the prompt is to be made of the messages.

    `extras` are further variables of the template, plain JSON values.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    adds_generation_prompt: bool = True
    continues_final_message: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict[str, Any])


class ChatTemplate:
    """Renders the template of one of transformers' tokenizers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.text = str(tokenizer.chat_template or "")
        self._names = _names_in(self.text)
        self._knows_developer = "developer" in self.text
        parameters = inspect.signature(tokenizer.apply_chat_template).parameters
        self.reserved = frozenset(parameters) | {"messages", "add_generation_prompt"}
        """What no extra variable may be called."""

    def knows(self, name: str) -> bool:
        """Whether the template does anything with a variable of that name."""
        return name in self._names

    def render(self, messages: Sequence[Mapping[str, Any]], wording: Wording) -> str:
        """The prompt's text. Raises RequestError when the template does not accept the messages."""
        if not self.text:
            raise RequestError("This model has no chat template.", param="messages")
        tools = [dict(tool) for tool in wording.tools]
        if not self.knows("tools"):
            messages, tools = told(messages, tools), []
        try:
            return self._applied([self._known(message) for message in messages], tools, wording)
        except jinja2.TemplateError as error:  # also what a template's raise_exception() raises
            sentence = f"The model's chat template refused the messages: {error}"[:1000]
            raise RequestError(sentence, param="messages") from error
        except RecursionError as error:
            sentence = "The model's chat template goes too deep with these messages."
            raise RequestError(sentence, param="messages") from error
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            sentence = "The model's chat template cannot render these messages."
            raise RequestError(sentence, param="messages") from error

    def _applied(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], wording: Wording
    ) -> str:
        text = self._tokenizer.apply_chat_template(
            messages,
            tools=tools or None,
            tokenize=False,
            add_generation_prompt=wording.adds_generation_prompt,
            continue_final_message=wording.continues_final_message,
            **wording.extras,
        )
        return cast(str, text)

    def _known(self, message: Mapping[str, Any]) -> dict[str, Any]:
        known = dict(message)
        if message["role"] == "developer" and not self._knows_developer:
            known["role"] = "system"
        thought = message.get("reasoning_content")
        # gpt-oss's template knows thoughts by this name, and takes them or a text beside calls
        if thought and "thinking" in self._names and not known["content"]:
            known["thinking"] = thought
        return known


def _names_in(template: str) -> frozenset[str]:
    """The names that stand in a template's code."""
    code = (LITERALS.sub(" ", block) for block in BLOCKS.findall(template))
    names = {name for block in code for name in re.findall(r"\w+", block)}
    # gpt-oss asks for `"thinking" in message`
    return frozenset(names | ({"thinking"} if '"thinking"' in template else set[str]()))
