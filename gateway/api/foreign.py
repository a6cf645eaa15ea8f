"""What other APIs' requests have in common with a chat completion's, and how its errors are told.

/v1/responses and /v1/messages are translated to chat bodies. A parameter of theirs is read by
their own schema; others pass if they shape the choice of tokens, are refused if they would change
the answer in another way, and are ignored by name if they would not. Pure.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from gateway.api.parameters import check_supported, ignored_params
from gateway.api.schema import USED
from shared.errors import RequestError

PASSED: Final = frozenset(
    (
        *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "ignore_eos"),
        *("min_tokens", "logit_bias", "presence_penalty", "frequency_penalty"),
        *("repetition_penalty", "structured_outputs", "chat_template_kwargs", "enable_thinking"),
        *("include_stop_str_in_output", "skip_special_tokens", "strict_limits"),
        *("user", "safety_identifier", "prompt_cache_key", "service_tier"),
    )
)
"""What shapes tokens, and who asks for them, is told alike in every API."""


@dataclass(frozen=True)
class Sorted:
    """The parameters that go into the chat body as they are, and those that have no effect."""

    passed: dict[str, Any]
    ignored: list[str]


def sort_params(given: Mapping[str, Any], own: Set[str], instead: Mapping[str, str]) -> Sorted:
    """Where each parameter beyond an API's `own` goes.

    Raises RequestError for one of chat completions alone, naming what to use `instead`, and for
    one that is not supported at all.
    """
    beyond = {name: value for name, value in given.items() if name not in own}
    for name in beyond:
        if name in instead or (name in USED and name not in PASSED):
            way_out = f"use '{instead[name]}'" if name in instead else "leave it out"
            sentence = f"Unsupported parameter: '{name}' is not supported here; {way_out}."
            raise RequestError(sentence, param=name, reason="unsupported_parameter")
    check_supported({name: value for name, value in beyond.items() if name not in PASSED})
    passed = {name: value for name, value in beyond.items() if name in PASSED}
    return Sorted(passed, ignored_params(beyond, PASSED))


Places = tuple[tuple[str, str], ...]
"""Patterns of a chat body's places, and what stands for them in another API; the first counts."""


@contextmanager
def told_as(places: Places) -> Generator[None]:
    """Errors about a chat body are raised as errors about the request it was made of."""
    try:
        yield
    except RequestError as error:
        raise translated(error, places) from error


def translated(error: RequestError, places: Places) -> RequestError:
    """The same error about the same thing under its name in another API."""
    if error.param is None:
        return error
    place = place_of(error.param, places)
    message = str(error).replace(f"'{error.param}'", f"'{place}'")
    return RequestError(message, param=place, reason=error.reason, status=error.status)


def place_of(param: str, places: Places) -> str:
    """Where in another API's request it stands that became `param` of a chat body."""
    for pattern, place in places:
        if match := re.fullmatch(pattern, param):
            return match.expand(place)
    return param


NOT_HERE: Final = ("x-resumable", "last-event-id")
"""Headers that ask for what only chat completions do."""


def headers_of(
    headers: Mapping[str, str], chat: Mapping[str, str], ignored: Iterable[str]
) -> dict[str, str]:
    """The answer's headers: those of the chat completion, and all that has no effect named."""
    vain = [*ignored, *(name for name in NOT_HERE if headers.get(name, "0") not in ("0", ""))]
    named = ", ".join(filter(None, (*vain, chat.get("x-ignored-params"))))
    return {**chat, **({"x-ignored-params": named} if named else {})}


def ids_of(answer_id: str, num_bytes: int) -> Callable[[str], str]:
    """Makes ids behind prefixes, the same for whoever asks for that answer again."""
    numbers = itertools.count()

    def new_id(prefix: str) -> str:
        number = f"{answer_id} {next(numbers)}".encode()
        return prefix + hashlib.blake2b(number, digest_size=num_bytes).hexdigest()

    return new_id


def event_frame(event: Mapping[str, Any]) -> bytes:
    """An event as both APIs stream it: its type stands in it, and before it. JSON is ASCII."""
    data = json.dumps(event, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()
