"""What an answer cost, as OpenAI counts it. Pure."""

from collections.abc import Sequence
from typing import Any

from gateway.api.answer import Answer


def usage_of(answers: Sequence[Answer], num_prompt_tokens: int) -> dict[str, Any]:
    """OpenAI's usage object, over all choices of one prompt, which counts once.

    A completion counts every sampled id, a stop id too.
    """
    num_tokens = sum(answer.num_tokens for answer in answers)
    num_cached = max(answer.num_cached for answer in answers)
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt_tokens + num_tokens,
        "prompt_tokens_details": {"cached_tokens": num_cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(answer.num_thought_tokens for answer in answers),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
