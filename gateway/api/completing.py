"""From a completion request to what is to be made: all that can be wrong with it is found here."""

import asyncio
import secrets
import time
from dataclasses import dataclass, replace
from functools import cached_property

from gateway.api.checks import checked_form, too_long
from gateway.api.completion_request import CompletionRequest, ParsedCompletion, Prompt
from gateway.api.logprobs import check_prompt_logprobs
from gateway.api.resume import Wish, keep, recall
from gateway.api.sampling import check_ids, sampling_of, stop_ids_of
from gateway.keys import Caller
from gateway.resume import Kept
from gateway.resume_record import Head
from gateway.served import ServedModel
from gateway.services import Services
from shared.errors import RequestError
from shared.swarm import ModelSpec
from shared.wire.codec import pack_ids
from shared.wire.messages import Sampling


@dataclass(frozen=True)
class Completing:
    """A valid request, all its prompts as token ids."""

    model: ServedModel
    request: CompletionRequest
    sampling: Sampling
    stop_ids: frozenset[int]
    prompts: tuple[tuple[int, ...], ...]
    ignored: tuple[str, ...]
    answer_id: str
    created: int
    kept: Kept | None = None

    @property
    def is_replayed(self) -> bool:
        """Whether it was asked for before, with the same key."""
        return self.kept is not None and not self.kept.is_new

    def room_after(self, prompt: tuple[int, ...]) -> int:
        """How many tokens may follow a prompt."""
        return min(self.request.max_tokens, self.model.spec.max_positions - len(prompt))

    @cached_property
    def echoes(self) -> tuple[str, ...]:
        """The text of each prompt, as it was written."""
        written = zip(self.request.prompt, self.prompts, strict=True)
        decode = self.model.plain.decode
        return tuple(text if isinstance(text, str) else decode(ids) for text, ids in written)


async def accept_completion(
    services: Services, caller: Caller, parsed: ParsedCompletion, wish: Wish
) -> Completing:
    """What a request asks for, or asks for again. Raises RequestError before any work."""
    asked = await _accept(services, caller, parsed)
    if not wish.key:
        return asked
    if len(asked.prompts) * parsed.request.num_tried > 1:
        param = "prompt" if len(asked.prompts) > 1 else "n"
        sentence = "With Idempotency-Key one prompt is continued once: only one answer can be kept."
        raise RequestError(sentence, param=param, reason="invalid_value")
    kept = await recall(services.archive, wish, {})
    kept = kept or await keep(services.archive, wish, _head(asked, wish))
    if kept is None or kept.is_new:
        return replace(asked, kept=kept)
    services.metrics.resumed.inc()
    head = kept.record.head
    return replace(
        asked, sampling=head.sampling, answer_id=head.answer_id, created=head.created, kept=kept
    )


def _head(asked: Completing, wish: Wish) -> Head:
    (prompt,) = asked.prompts
    return Head(
        caller=wish.caller,
        body_digest=wish.digest,
        body=b"{}",
        answer_id=asked.answer_id,
        created=asked.created,
        prompt=pack_ids(prompt),
        max_tokens=max(1, asked.room_after(prompt)),
        stop_ids=tuple(sorted(asked.stop_ids)),
        sampling=asked.sampling,
    )


async def _accept(services: Services, caller: Caller, parsed: ParsedCompletion) -> Completing:
    request = parsed.request
    model = services.model_for(caller, request.model, is_stream=request.stream)
    check_ids(request, model.spec.vocab_size)
    prompts = await asyncio.to_thread(
        lambda: tuple(_encoded(model, request, prompt) for prompt in request.prompt)
    )
    _check_lengths(model.spec, request, prompts)
    grammar = await checked_form(
        model, parsed.form, names_tokens=request.logprobs is not None, asked="logprobs"
    )
    stop_ids = stop_ids_of(request, model.text.stop_ids)
    sampling = sampling_of(
        request,
        grammar,
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        stop_ids=stop_ids,
        num_logprobs=_num_logprobs(request),
        num_prompt_logprobs=request.logprobs if request.scores_prompt else None,
    )
    return Completing(
        model,
        request,
        sampling,
        stop_ids,
        prompts,
        parsed.ignored,
        answer_id="cmpl-" + secrets.token_hex(16),
        created=int(time.time()),
    )


def _encoded(model: ServedModel, request: CompletionRequest, prompt: Prompt) -> tuple[int, ...]:
    if isinstance(prompt, str):
        ids = model.plain.encode(prompt, with_special=request.add_special_tokens)
    else:
        ids = prompt
    if not ids:
        sentence = "The prompt is empty, and this model has no token to begin a text with."
        raise RequestError(sentence, param="prompt", reason="invalid_value")
    if max(ids) >= model.spec.vocab_size:
        sentence = f"Invalid value for 'prompt': token ids must be below {model.spec.vocab_size}."
        raise RequestError(sentence, param="prompt", reason="invalid_value")
    return ids


def _check_lengths(
    spec: ModelSpec, request: CompletionRequest, prompts: tuple[tuple[int, ...], ...]
) -> None:
    longest = max(map(len, prompts))
    if longest > spec.max_positions - min(1, request.max_tokens):
        raise too_long(spec, longest, "prompt")
    if request.scores_prompt:
        num_scored = sum(map(len, prompts)) * request.num_tried
        check_prompt_logprobs(request.logprobs, num_scored, param="logprobs")


def _num_logprobs(request: CompletionRequest) -> int | None:
    """The best of several are found by their logprobs, also where nobody else wants them."""
    if request.logprobs is None and request.num_tried > request.n:
        return 0
    return request.logprobs
