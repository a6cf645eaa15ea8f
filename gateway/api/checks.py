"""What can be wrong with a request that only its model's tokens show."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.api.formats import Form
from gateway.api.tool_grammar import alone, forced, optional
from gateway.api.tools import Toolbox
from gateway.served import ServedModel
from shared.errors import GrammarError, ModelError, RequestError
from shared.swarm import ModelSpec
from shared.wire.messages import Grammar

T = TypeVar("T")


async def checked_form(
    model: ServedModel, form: Form | None, *, names_tokens: bool, asked: str
) -> Grammar | None:
    """The grammar of the answer.

    Raises RequestError when it cannot be had, or the tokens that the parameter `asked` for cannot
    be named.
    """
    if names_tokens:
        await _had(model.text.vocabulary.load(), asked)
    if form:
        return await _had(model.text.vocabulary.checked(form.grammar), form.param)
    return None


async def checked_calls(
    model: ServedModel, toolbox: Toolbox, form: Grammar | None = None
) -> Grammar:
    """The grammar of forced calls, or of calls or a form that has been checked.

    Raises RequestError when it cannot be had, naming the tool whose schema is at fault.
    """
    grammar = optional(toolbox, form) if form else forced(toolbox)
    vocabulary = model.text.vocabulary
    try:
        return await vocabulary.checked(grammar)
    except GrammarError:
        for index, tool in enumerate(toolbox.tools):
            param = f"tools[{index}].function.parameters"
            await _had(vocabulary.checked(alone(tool)), param)
        return await _had(vocabulary.checked(grammar), "tools")
    except ModelError:
        return await _had(vocabulary.checked(grammar), "tool_choice")


async def _had(work: Coroutine[Any, Any, T], param: str) -> T:
    """What the vocabulary gives. Raises RequestError, naming the parameter that asked for it."""
    try:
        return await work
    except GrammarError as error:
        sentence = f"Invalid value for '{param}': {error}"
        raise RequestError(sentence, param=param, reason="invalid_value") from error
    except ModelError as error:
        sentence = f"'{param}' cannot be used with this model: it has {error}"
        raise RequestError(sentence, param=param, reason="unsupported_parameter") from error


def too_long(spec: ModelSpec, num_prompt_tokens: int, param: str) -> RequestError:
    """What is said of a prompt that leaves no room. LiteLLM and agents know it by its beginning."""
    return RequestError(
        f"This model's maximum context length is {spec.max_positions} tokens. However, your "
        f"{param} resulted in {num_prompt_tokens} tokens. Please reduce the length of the {param}.",
        param=param,
        reason="context_length_exceeded",
    )
