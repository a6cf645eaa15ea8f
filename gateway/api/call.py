"""From a request to a call: a new one, checked in all that can be wrong, or one come back for."""

import json
import secrets
import string
import sys
import time
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.api.checks import checked_calls, checked_form, too_long
from gateway.api.logprobs import check_prompt_logprobs
from gateway.api.resume import Wish, keep, recall
from gateway.api.sampling import check_ids, sampling_of, stop_ids_of
from gateway.api.schema import ChatRequest, Parsed, parse_chat
from gateway.api.wording import unheard, wording_of
from gateway.keys import Caller
from gateway.resume import Kept
from gateway.resume_record import EventId, Head, Seen, digest_of
from gateway.served import ServedModel
from gateway.services import Services
from shared.errors import RequestError
from shared.swarm import ModelSpec
from shared.wire.codec import pack_ids
from shared.wire.messages import Sampling

ALPHANUMERIC: Final = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Call:
    """A valid request on its way.

    With `stream` the events of its stream have ids, and `seen` is what the client had of it.
    """

    model: ServedModel
    parsed: Parsed
    sampling: Sampling
    stop_ids: frozenset[int]
    answer_id: str
    created: int
    prompt: tuple[int, ...]
    max_tokens: int
    headers: dict[str, str]
    kept: Kept | None = None
    stream: str = ""
    seen: Seen | None = None

    @property
    def request(self) -> ChatRequest:
        """What was asked."""
        return self.parsed.request

    @property
    def num_seen(self) -> int:
        """How much of what is said the client has; all, if it had an event behind that."""
        return self.seen if isinstance(self.seen, int) else sys.maxsize if self.seen else 0


async def accept(services: Services, caller: Caller, wish: Wish, body: dict[str, Any]) -> Call:
    """The call that a request begins, or comes back for."""
    if kept := await recall(services.archive, wish, body):
        return await _again(services, caller, wish, kept)
    call = await _begin(services, caller, body)
    if wish.is_any and call.request.n > 1:
        sentence = "'n' must be 1 with x-resumable or Idempotency-Key: only one answer can be kept."
        raise RequestError(sentence, param="n", reason="invalid_value")
    if not (wish.key or (wish.is_resumable and call.request.stream)):
        return call
    kept = await keep(services.archive, wish, _head(call, wish, body))
    if kept is not None and not kept.is_new:
        return await _again(services, caller, wish, kept)
    has_ids = kept is not None and wish.is_resumable
    return replace(call, kept=kept, stream=kept.stream if kept and has_ids else "")


async def count_prompt(services: Services, caller: Caller, body: dict[str, Any]) -> int:
    """How many tokens a body's messages make, be they too many. Raises RequestError."""
    return len(await prompt_of(services, caller, body))


async def prompt_of(services: Services, caller: Caller, body: dict[str, Any]) -> tuple[int, ...]:
    """The tokens that a body's messages make, be they too many. Raises RequestError."""
    parsed = parse_chat(body)
    model = services.models.find_for(caller, parsed.request.model)
    return await _rendered(model, parsed)


def prompt_budget(
    spec: ModelSpec, num_prompt_tokens: int, asked: int | None, *, is_strict: bool = False
) -> int:
    """How many tokens may follow the prompt; when it is strict, no fewer than were asked for.

    Raises RequestError when none fits.
    """
    room = spec.max_positions - num_prompt_tokens
    if room < 1:
        raise too_long(spec, num_prompt_tokens, "messages")
    if is_strict and asked is not None and asked > room:
        raise RequestError(
            f"{asked} tokens were asked for, and after a prompt of {num_prompt_tokens} only {room} "
            "are left of this model's context.",
            param="max_tokens",
            reason="invalid_value",
        )
    return min(asked or room, room)


def _head(call: Call, wish: Wish, body: dict[str, Any]) -> Head:
    """What is kept of a call. The messages are in its prompt already."""
    last = "assistant" if call.request.continue_final_message else "user"
    return Head(
        caller=wish.caller,
        body_digest=wish.digest or digest_of(body),
        body=json.dumps(body | {"messages": [{"role": last, "content": ""}]}).encode(),
        answer_id=call.answer_id,
        created=call.created,
        prompt=pack_ids(call.prompt),
        max_tokens=call.max_tokens,
        stop_ids=tuple(sorted(call.stop_ids)),
        sampling=call.sampling,
    )


async def _again(services: Services, caller: Caller, wish: Wish, kept: Kept) -> Call:
    """The call that a kept answer was begun with."""
    services.metrics.resumed.inc()
    head, event = kept.record.head, EventId.parse(wish.last_event)
    parsed = parse_chat(json.loads(head.body))
    model = services.model_for(caller, parsed.request.model, is_stream=parsed.request.stream)
    if parsed.request.names_tokens:
        await model.text.vocabulary.load()
    return Call(
        model,
        parsed,
        head.sampling,
        frozenset(head.stop_ids),
        head.answer_id,
        head.created,
        head.prompt_ids,
        head.max_tokens,
        _headers(model, parsed) | ({} if event else {"idempotent-replayed": "true"}),
        kept,
        kept.stream if event or wish.is_resumable else "",
        event.seen if event else None,
    )


def _headers(model: ServedModel, parsed: Parsed) -> dict[str, str]:
    headers = {"x-model-revision": model.spec.revision}
    if ignored := (*parsed.ignored, *unheard(parsed.request, model.text.template.knows)):
        headers["x-ignored-params"] = ", ".join(ignored)
    return headers


async def _begin(services: Services, caller: Caller, body: dict[str, Any]) -> Call:
    """Everything that can be wrong with a request is found here, before any work."""
    created = int(time.time())
    parsed = parse_chat(body)
    model = services.model_for(caller, parsed.request.model, is_stream=parsed.request.stream)
    check_ids(parsed.request, model.spec.vocab_size)
    prompt = await _rendered(model, parsed)
    max_tokens = prompt_budget(
        model.spec,
        len(prompt),
        parsed.request.budget,
        is_strict=parsed.request.strict_limits,
    )
    check_prompt_logprobs(parsed.request.prompt_logprobs, len(prompt))
    grammar = await checked_form(
        model,
        parsed.held_form,
        names_tokens=parsed.request.names_tokens,
        asked="logprobs" if parsed.request.logprobs else "prompt_logprobs",
    )
    if parsed.toolbox and (parsed.toolbox.is_forced or grammar):
        grammar = await checked_calls(model, parsed.toolbox, grammar)
    stop_ids = stop_ids_of(parsed.request, model.text.stop_ids)
    seed = secrets.randbits(63) if parsed.request.seed is None else parsed.request.seed
    return Call(
        model,
        parsed,
        sampling_of(
            parsed.request,
            grammar,
            seed=seed,
            stop_ids=stop_ids,
            num_logprobs=parsed.request.num_logprobs,
            num_prompt_logprobs=parsed.request.prompt_logprobs,
        ),
        stop_ids,
        "chatcmpl-" + "".join(secrets.choice(ALPHANUMERIC) for _ in range(29)),
        created,
        prompt,
        max_tokens,
        _headers(model, parsed),
    )


async def _rendered(model: ServedModel, parsed: Parsed) -> tuple[int, ...]:
    messages = [message.for_template() for message in parsed.request.messages]
    return await model.text.prompt(messages, wording_of(parsed, model.text.template))
