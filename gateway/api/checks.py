"""What can be wrong with a request that only its model's tokens show."""

from gateway.api.formats import Form
from gateway.served import ServedModel
from shared.errors import GrammarError, ModelError, RequestError
from shared.swarm import ModelSpec
from shared.wire.messages import Grammar


async def checked_form(
    model: ServedModel, form: Form | None, *, names_tokens: bool, asked: str
) -> Grammar | None:
    """The grammar of the answer.

    Raises RequestError when it cannot be had, or the tokens that the parameter `asked` for cannot
    be named.
    """
    param = form.param if form else asked
    try:
        if names_tokens:
            await model.text.vocabulary.load()
        if form:
            return await model.text.vocabulary.checked(form.grammar)
    except GrammarError as error:
        sentence = f"Invalid value for '{param}': {error}"
        raise RequestError(sentence, param=param, reason="invalid_value") from error
    except ModelError as error:
        sentence = f"'{param}' cannot be used with this model: it has {error}"
        raise RequestError(sentence, param=param, reason="unsupported_parameter") from error
    return None


def too_long(spec: ModelSpec, num_prompt_tokens: int, param: str) -> RequestError:
    """What is said of a prompt that leaves no room. LiteLLM and agents know it by its beginning."""
    return RequestError(
        f"This model's maximum context length is {spec.max_positions} tokens. However, your "
        f"{param} resulted in {num_prompt_tokens} tokens. Please reduce the length of the {param}.",
        param=param,
        reason="context_length_exceeded",
    )
