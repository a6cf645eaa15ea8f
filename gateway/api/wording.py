"""What a request says of its prompt, as the model's chat template takes it. Pure."""

from collections.abc import Callable, Iterator

from gateway.api.schema import ChatRequest, Parsed
from gateway.template import ChatTemplate, Wording
from shared.errors import RequestError

HEARD_AS: dict[str, tuple[str, ...]] = {
    "reasoning_effort": ("reasoning_effort", "enable_thinking", "thinking"),
    "reasoning": ("reasoning_effort", "enable_thinking", "thinking"),
    "enable_thinking": ("enable_thinking", "thinking"),
}
"""Parameters, and the variables of templates that make something of them."""


def wording_of(parsed: Parsed, template: ChatTemplate) -> Wording:
    """Raises RequestError when a variable would change what is none of the template's."""
    request, toolbox = parsed.request, parsed.toolbox
    if any(name in template.reserved for name in request.chat_template_kwargs):
        raise RequestError(
            "Invalid value for 'chat_template_kwargs': it sets what is not the template's.",
            param="chat_template_kwargs",
            reason="invalid_value",
        )
    extras = request.template_extras
    return Wording(
        tools=tuple(tool.for_template() for tool in toolbox.tools) if toolbox else (),
        adds_generation_prompt=request.adds_generation_prompt,
        continues_final_message=request.continue_final_message,
        extras={name: value for name, value in extras.items() if template.knows(name)},
    )


def unheard(request: ChatRequest, knows: Callable[[str], bool]) -> Iterator[str]:
    """The parameters that the model's template makes nothing of."""
    for param, names in HEARD_AS.items():
        if getattr(request, param) is not None and not any(map(knows, names)):
            yield param
    for name in request.chat_template_kwargs:
        if not knows(name):
            yield f"chat_template_kwargs.{name}"
