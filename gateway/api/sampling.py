"""From a request's parameters to what the last hop is told. Pure."""

import hashlib
from collections.abc import Set

from msgspec import structs

from gateway.api.asked import Asked
from shared.errors import RequestError
from shared.wire.messages import Grammar, Sampling


def check_ids(request: Asked, vocab_size: int) -> None:
    """Raises RequestError when a parameter names a token that the model does not have."""
    named = {
        "logit_bias": [token_id for token_id, _ in request.logit_bias],
        "stop_token_ids": request.stop_token_ids,
    }
    for param, token_ids in named.items():
        if any(token_id >= vocab_size for token_id in token_ids):
            raise RequestError(
                f"Invalid value for '{param}': token ids must be below {vocab_size}.",
                param=param,
                reason="invalid_value",
            )


def stop_ids_of(request: Asked, model_stop_ids: frozenset[int]) -> frozenset[int]:
    """What ends this answer."""
    return frozenset(request.stop_token_ids) | (
        frozenset[int]() if request.ignore_eos else model_stop_ids
    )


def choice_seed(seed: int, index: int) -> int:
    """The seed of the choice of that number: the first has the request's own."""
    if not index:
        return seed
    digest = hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def of_choice(sampling: Sampling, index: int) -> Sampling:
    """How the tokens of one of several choices are chosen: each has a seed of its own.

    The first keeps the request's, so that it is the answer that would come alone. Only the first
    tells of the prompt.
    """
    if index == 0:
        return sampling
    seed = choice_seed(sampling.seed, index)
    return structs.replace(sampling, seed=seed, num_prompt_logprobs=None)


def sampling_of(
    request: Asked,
    grammar: Grammar | None,
    *,
    seed: int,
    stop_ids: Set[int],
    num_logprobs: int | None = None,
    num_prompt_logprobs: int | None = None,
) -> Sampling:
    """How the tokens of this answer are chosen."""
    needs_stops = grammar is not None or request.min_tokens > 0
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        seed=seed,
        top_k=max(0, request.top_k),
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=request.logit_bias,
        num_logprobs=num_logprobs,
        stop_ids=tuple(sorted(stop_ids)) if needs_stops else (),
        min_tokens=request.min_tokens,
        grammar=grammar,
        num_prompt_logprobs=num_prompt_logprobs,
    )
