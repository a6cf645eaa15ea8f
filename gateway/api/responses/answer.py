"""The response object: everything that is known of an answer at one time. Pure."""

from dataclasses import dataclass
from typing import Any, Literal, cast

from gateway.api.responses.schema import ResponseRequest

Status = Literal["in_progress", "completed", "incomplete", "failed"]


@dataclass(frozen=True)
class Frame:
    """What stays the same about a response from its first event to its last.

    `body` is the request as it was written.
    """

    response_id: str
    created: int
    request: ResponseRequest
    body: dict[str, Any]
    is_stored: bool

    def at(
        self,
        status: Status,
        output: list[dict[str, Any]],
        *,
        usage: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        completed: int | None = None,
    ) -> dict[str, Any]:
        """The response as it stands."""
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created,
            "completed_at": completed if status == "completed" else None,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": incomplete,
            **self._echo(),
            "output": list(output),
            "usage": usage,
        }

    def _echo(self) -> dict[str, Any]:
        """The request's parameters as they were understood."""
        request, body = self.request, self.body
        return {
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": body.get("max_tool_calls"),
            "metadata": dict(request.metadata),
            "model": request.model,
            "parallel_tool_calls": request.parallel_tool_calls,
            "previous_response_id": request.previous_response_id,
            "prompt_cache_key": body.get("prompt_cache_key"),
            "reasoning": {"effort": request.reasoning.effort, "summary": None},
            "safety_identifier": body.get("safety_identifier"),
            "service_tier": "default",
            "store": self.is_stored,
            "temperature": _or(body.get("temperature"), 1.0),
            "text": _text(body.get("text") or {}),
            "tool_choice": _or(body.get("tool_choice"), "auto"),
            "tools": [_tool(tool) for tool in cast(list[dict[str, Any]], body.get("tools") or [])],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": _or(body.get("top_p"), 1.0),
            "truncation": "disabled",
            "user": body.get("user"),
        }


def usage_of(usage: dict[str, Any]) -> dict[str, Any]:
    """A chat completion's usage in the words of /v1/responses; all five members are owed."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": usage["prompt_tokens_details"]["cached_tokens"]},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {
            "reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"]
        },
        "total_tokens": usage["total_tokens"],
    }


def status_of(finish_reason: str | None) -> Literal["completed", "incomplete"]:
    """How a chat completion's end is called here."""
    return "incomplete" if finish_reason == "length" else "completed"


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _text(text: dict[str, Any]) -> dict[str, Any]:
    return {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity")}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """SDKs want these two keys in every function."""
    absent = {"parameters": None, "strict": None} if tool.get("type") == "function" else {}
    return absent | tool
