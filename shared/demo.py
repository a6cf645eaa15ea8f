"""Talks to a running gateway as a client does: is it ready, and one question."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from shared.errors import GenerationFailed

TIMEOUT_SECONDS = 120.0
MAX_TOKENS = 256


async def what_is_wanting(client: httpx.AsyncClient, url: str) -> str:
    """Why the gateway cannot answer yet, in its own words; empty when it can."""
    try:
        reply = await client.get(f"{url}/ready")
    except httpx.TransportError as error:
        return f"does not answer ({type(error).__name__})"
    if reply.is_success:
        return ""
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"answers {reply.status_code}"


async def ask(url: str, model: str, question: str) -> AsyncIterator[str]:
    """The pieces of an answer over the OpenAI API. Raises GenerationFailed when it breaks off."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    client = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False)
    try:
        async with client, client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            if reply.is_error:
                text = (await reply.aread()).decode(errors="replace")
                raise GenerationFailed("bad_answer", f"HTTP {reply.status_code}: {text}")
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    yield piece_of(json.loads(line.removeprefix("data: ")))
    except httpx.HTTPError as error:
        raise GenerationFailed("bad_answer", f"{url}: {error or type(error).__name__}") from error


def piece_of(chunk: dict[str, Any]) -> str:
    """The text in one chunk of a streamed answer. Raises GenerationFailed for an error chunk."""
    if "error" in chunk:
        raise GenerationFailed("bad_answer", str(chunk["error"].get("message", chunk["error"])))
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def curl_line(url: str, model: str, question: str) -> str:
    """The same question for a shell."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": True}
    data = json.dumps(body).replace("'", "'\\''")
    return (
        f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n    -d '{data}'"
    )
