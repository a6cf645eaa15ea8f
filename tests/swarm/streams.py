"""Streams of a chaos run: what is asked, what is heard, how it differs from the undisturbed."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.swarm.test_sampling import SCHEMA

PATH = "/v1/chat/completions"
HANG_SECONDS = 150.0
"""Longer than a gateway takes to give up on a stream: it has forgotten this one."""
LOGPROB_TOLERANCE = 1e-3
"""Which sessions share a batch changes the last bits of a logit."""
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")

Request = Mapping[str, Any]
STORY = "Tell me a story about buckets and a long road."
LONG = "A road goes over the hill, and at its end there is a fire. " * 8


def requests(model: str, num_tokens: int) -> dict[str, Request]:
    """What is asked, by name: every way to choose tokens that a failure could disturb."""
    form = {"name": "thing", "schema": SCHEMA, "strict": True}
    ways: dict[str, Request] = {
        "greedy": {"temperature": 0},
        "greedy, long prompt": {"temperature": 0, "content": LONG},
        "greedy, logprobs": {"temperature": 0, "logprobs": True, "top_logprobs": 3},
        "seeded": {"temperature": 1.2, "seed": 1},
        "seeded, long prompt": {"temperature": 0.8, "top_p": 0.9, "seed": 2, "content": LONG},
        "seeded, logprobs": {"temperature": 1.0, "seed": 3, "logprobs": True, "top_logprobs": 2},
        "penalties": {
            "temperature": 1.1,
            "seed": 4,
            "presence_penalty": 0.4,
            "frequency_penalty": 0.3,
            "repetition_penalty": 1.1,
            "logprobs": True,
        },
        "candidates": {"temperature": 1.4, "seed": 5, "top_k": 50, "min_p": 0.02},
        "schema": {
            "temperature": 1.3,
            "seed": 11,
            "max_tokens": 300,
            "ignore_eos": False,
            "response_format": {"type": "json_schema", "json_schema": form},
        },
        "stop string": {"temperature": 1.0, "seed": 6, "stop": ["ll onc"]},
        "short": {"temperature": 0, "max_tokens": 12, "content": "Who are you?"},
    }
    return {name: _request(model, num_tokens, **way) for name, way in ways.items()}


def _request(model: str, num_tokens: int, *, content: str = STORY, **way: Any) -> Request:
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **way,
    }


@dataclass(frozen=True)
class Verdict:
    """How much of a stream is not as it would have been, in tokens or in characters."""

    wrong: int = 0
    lost: int = 0


class Hearing:
    """One stream, from its request to whatever ended it."""

    def __init__(self, request: Request) -> None:
        self.text = ""
        self.tokens: list[dict[str, Any]] = []
        self.finish_reason = ""
        self.usage: list[int] = []
        self.failure = ""
        self.began = time.monotonic()
        self.arrivals: list[float] = []
        self._request = request

    async def listen(self, client: httpx.AsyncClient) -> None:
        """Ask, and hear it to its end. Whatever fails is noted as `failure`."""
        self.began = time.monotonic()
        try:
            async with asyncio.timeout(HANG_SECONDS) as patience:
                await self._listen(client, patience)
        except TimeoutError:
            self.failure = f"no token within {HANG_SECONDS:.0f} s"
        except httpx.HTTPError as error:
            self.failure = f"connection: {type(error).__name__}: {error}"
        if not self.failure and not self.finish_reason:
            self.failure = "ended without a finish"

    def judge(self, expected: "Hearing", *, is_whole: bool) -> Verdict:
        """Compare with the undisturbed stream; one that was left has to be a beginning of it."""
        ours, theirs = self._units(), expected._units()
        wrong = sum(map(_differ, ours, theirs)) + max(0, len(ours) - len(theirs))
        if not is_whole:
            return Verdict(wrong)
        facts = (self.finish_reason, self.usage, self.text)
        is_same = facts == (expected.finish_reason, expected.usage, expected.text)
        lost = max(0, len(theirs) - len(ours))
        return Verdict(max(wrong, int(not is_same and not lost)), lost)

    def _units(self) -> Sequence[Any]:
        return self.tokens or self.text

    async def _listen(self, client: httpx.AsyncClient, patience: asyncio.Timeout) -> None:
        async with client.stream("POST", PATH, json=self._request) as response:
            if response.status_code != 200:
                self.failure = _reason(json.loads(await response.aread()))
                return
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    self._hear(json.loads(line.removeprefix("data: ")))
                    patience.reschedule(asyncio.get_running_loop().time() + HANG_SECONDS)

    def _hear(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self.failure = _reason(chunk)
            return
        if chunk.get("usage"):
            self.usage = [chunk["usage"][count] for count in COUNTS]
        for choice in chunk["choices"]:
            self.finish_reason = choice["finish_reason"] or self.finish_reason
            self.tokens += (choice.get("logprobs") or {}).get("content") or []
            if content := choice["delta"].get("content"):
                self.text += content
                self.arrivals.append(time.monotonic())


def _reason(body: dict[str, Any]) -> str:
    return f"{body['error']['code']}: {body['error']['message']}"


def _differ(ours: Any, theirs: Any) -> bool:
    """Whether two characters, or two tokens with their logprobs, are not the same."""
    if isinstance(ours, str):
        return ours != theirs
    if ours["bytes"] != theirs["bytes"]:
        return True
    return abs(ours["logprob"] - theirs["logprob"]) > LOGPROB_TOLERANCE


async def undisturbed(
    client: httpx.AsyncClient, wanted: Mapping[str, Request]
) -> dict[str, Hearing]:
    """What each request is answered while nothing goes wrong."""
    hearings = {name: Hearing(request) for name, request in wanted.items()}
    await asyncio.gather(*(hearing.listen(client) for hearing in hearings.values()))
    for name, hearing in hearings.items():
        assert not hearing.failure, f"{name}: {hearing.failure}"
    return hearings
