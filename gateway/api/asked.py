"""What a request may ask of the choice of its tokens, whatever its prompt is written as. Pure."""

import re
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from gateway.api.formats import StructuredOutputs
from gateway.api.written import Whole, Written
from shared.wire.messages import MAX_BIASES

MAX_STOP_TOKEN_IDS: Final = 64
TOKEN_ID: Final = re.compile("[0-9]{1,10}")

MAX_CHOICES: Final = 8
MAX_NAME: Final = 1024

UNUSED: Final = frozenset({"user", "safety_identifier", "metadata", "store", "prompt_cache_key"})
"""Parameters that are checked and have no effect."""

Stop = Annotated[str, Field(min_length=1)]
TokenId = Annotated[Whole, Field(ge=0, lt=1 << 31)]
MetadataName = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


def _as_list(value: Any) -> Any:
    if value == "":
        raise PydanticCustomError("empty", "must not be an empty string")
    return [value] if isinstance(value, str) else value


def _as_biases(value: Any) -> Any:
    """JSON's map from written ids as pairs. What is wrong is not named: keys are the client's."""
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "should be a map from token ids to numbers")
    biases = cast(dict[str, Any], value)
    if len(biases) > MAX_BIASES:
        raise PydanticCustomError("too_long", "should have at most {most}", {"most": MAX_BIASES})
    if not all(TOKEN_ID.fullmatch(key) for key in biases):
        raise PydanticCustomError("bias_key", "the keys should be token ids")
    if not all(_is_bias(bias) for bias in biases.values()):
        raise PydanticCustomError("bias_value", "the values should be numbers from -100 to 100")
    return tuple((int(key), float(bias)) for key, bias in biases.items())


def _is_bias(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -100 <= value <= 100


class StreamOptions(Written):
    """What a stream carries beyond text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class Asked(Written):
    """The parameters that chat completions and completions share."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[Whole, Field(ge=-1, lt=1 << 31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    logit_bias: Annotated[tuple[tuple[int, float], ...], BeforeValidator(_as_biases)] = ()
    seed: Annotated[Whole, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Annotated[
        list[Stop],
        Field(max_length=16, fail_fast=True, default_factory=list),
        BeforeValidator(_as_list),
    ]
    stop_token_ids: Annotated[
        list[TokenId],
        Field(max_length=MAX_STOP_TOKEN_IDS, fail_fast=True, default_factory=list),
    ]
    ignore_eos: bool = False
    min_tokens: Annotated[Whole, Field(ge=0)] = 0
    structured_outputs: StructuredOutputs | None = None
    n: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] = 1
    include_stop_str_in_output: bool = False
    user: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    metadata: Annotated[dict[MetadataName, MetadataValue], Field(max_length=16)] | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "scale", "fast"] | None = None
    store: bool | None = None
    prompt_cache_key: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends in a chunk with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)
