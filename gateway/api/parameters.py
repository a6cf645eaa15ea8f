"""Which parameters beyond ours a request may name. Pure.

One that would change the answer is refused, unless its value says nothing; one that changes only
cost or bookkeeping is ignored, and so is an unknown one, but both are named to the client.
"""

import json
import re
from collections.abc import Mapping, Set
from typing import Any, Final

from shared.errors import RequestError

NO_OP_VALUES: Final[dict[str, tuple[Any, ...]]] = {
    # OpenAI's
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "reasoning_effort": ("none",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "moderation": (),
    # common extensions, by the names vLLM, SGLang, llama.cpp and OpenRouter give them
    "top_a": (0,),
    "typical_p": (1,),
    "tfs_z": (1,),
    "repeat_penalty": (1,),
    "length_penalty": (1,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "mirostat": (0,),
    "dynatemp_range": (0,),
    "samplers": (),
    "best_of": (1,),
    "use_beam_search": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "truncate_prompt_tokens": (),
    "skip_special_tokens": (True,),
    "return_token_ids": (False,),
    "strict_limits": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template_kwargs": ({},),
    "enable_thinking": (),
    "reasoning": (),
    "spaces_between_special_tokens": (True,),
    "add_special_tokens": (False,),
    "echo": (False,),
    "suffix": (),
    "chat_template": (),
    "documents": ([],),
    "thinking": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "json_schema": (),
    "grammar": (),
    "regex": (),
    "ebnf": (),
    "logits_processors": (),
}
"""Parameters that would change the text and are not implemented, or not by every API, with the
values that ask for nothing."""

HINTS: Final = {"functions": "use 'tools'", "function_call": "use 'tool_choice'"}
"""What does the same."""

MAX_NAMED: Final = 32


def check_supported(body: Mapping[str, Any]) -> None:
    """Raises RequestError for the first parameter that asks for what is not implemented."""
    for name, value in body.items():
        no_ops = NO_OP_VALUES.get(name)
        if no_ops is not None and not any(_same(value, no_op) for no_op in no_ops):
            raise RequestError(
                f"Unsupported parameter: '{name}' is not supported here; {_way_out(name, no_ops)}.",
                param=name,
                reason="unsupported_parameter",
            )


def ignored_params(body: Mapping[str, Any], used: Set[str]) -> list[str]:
    """The parameters of `body` that have no effect, fit to stand in a header."""
    names = [name for name in body if name not in used and name not in NO_OP_VALUES]
    return [re.sub(r"[^A-Za-z0-9_.-]", "?", name[:64]) for name in names[:MAX_NAMED]]


def _same(value: Any, no_op: Any) -> bool:
    """Equality of JSON values, in which true is not 1."""
    return value == no_op and isinstance(value, bool) == isinstance(no_op, bool)


def _way_out(name: str, no_ops: tuple[Any, ...]) -> str:
    if hint := HINTS.get(name):
        return hint
    if not no_ops:
        return "leave it out"
    return "leave it out or send " + " or ".join(json.dumps(no_op) for no_op in no_ops)
