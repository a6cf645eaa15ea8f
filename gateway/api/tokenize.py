"""POST /tokenize and /detokenize, in vLLM's shapes: what a text or a conversation costs."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter
from pydantic import Field, ValidationError
from starlette.requests import Request

from gateway.api.asked import TokenId
from gateway.api.body import read_object
from gateway.api.call import prompt_of
from gateway.api.door import caller_of
from gateway.api.openapi import body_schema
from gateway.api.written import Written, first_mistake
from gateway.keys import Caller
from gateway.served import ServedModel
from gateway.services import Services
from shared.errors import RequestError

MAX_TOKENS: Final = 1 << 20
"""Of one /detokenize."""

Body = TypeVar("Body", bound="OfModel")


class OfModel(Written):
    """Whatever a tokenizer is asked; the first model's, if it is not said which."""

    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None


class Tokenize(OfModel):
    """A text, or messages as a chat completion has them."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class Detokenize(OfModel):
    """Token ids."""

    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS, fail_fast=True)]


def tokenize_routes(services: Services) -> APIRouter:
    """Both routes, and their aliases."""
    router = APIRouter(tags=["tokenize"])

    async def tokenize(request: Request) -> dict[str, Any]:
        body = await read_object(request, services.max_body_bytes)
        asked, caller = _parsed(Tokenize, body), caller_of(request)
        model = _model(services, caller, asked)
        if asked.messages is not None and asked.prompt is None:
            ids = await prompt_of(services, caller, body | {"model": _name(services, asked)})
        elif asked.prompt is not None and asked.messages is None:
            ids = await asyncio.to_thread(
                model.plain.encode, asked.prompt, with_special=asked.add_special_tokens
            )
        else:
            sentence = "Exactly one of 'prompt' and 'messages' is needed."
            raise RequestError(sentence, param="prompt", reason="invalid_value")
        return {
            "count": len(ids),
            "max_model_len": model.spec.max_positions,
            "tokens": list(ids),
            "token_strs": model.plain.names(ids) if asked.return_token_strs else None,
        }

    async def detokenize(request: Request) -> dict[str, Any]:
        asked = _parsed(Detokenize, await read_object(request, services.max_body_bytes))
        model = _model(services, caller_of(request), asked)
        if any(token_id >= model.spec.vocab_size for token_id in asked.tokens):
            sentence = f"Invalid value for 'tokens': ids must be below {model.spec.vocab_size}."
            raise RequestError(sentence, param="tokens", reason="invalid_value")
        decode = model.plain.decode
        return {"prompt": await asyncio.to_thread(decode, asked.tokens, hides_special=False)}

    for path, answer, schema in (
        ("/tokenize", tokenize, Tokenize),
        ("/detokenize", detokenize, Detokenize),
    ):
        for prefix in ("", "/v1"):
            router.add_api_route(
                prefix + path, answer, methods=["POST"], openapi_extra=body_schema(schema)
            )
    return router


def _parsed(kind: type[Body], body: Mapping[str, Any]) -> Body:
    given = {name: value for name, value in body.items() if value is not None}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise first_mistake(error) from error


def _name(services: Services, asked: OfModel) -> str:
    return asked.model or services.models.first.spec.name


def _model(services: Services, caller: Caller, asked: OfModel) -> ServedModel:
    return services.models.find_for(caller, _name(services, asked))
