"""How many requests and tokens a key is still good for this minute. Pure: time comes in.

A bucket fills evenly and is full after a minute. How long an answer will be is not known before
it is made, so its tokens are taken as they come and may overdraw: the next request waits for that.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from gateway.keys import Key
from shared.errors import RequestError

MINUTE: Final = 60.0

Kind = Literal["requests", "tokens"]


class Bucket:
    """`per_minute` at most, and at the beginning."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def left(self, now: float) -> float:
        """What may be taken; below nothing when it is overdrawn."""
        filled = self._level + max(0.0, now - self._at) * self.per_minute / MINUTE
        return min(float(self.per_minute), filled)

    def take(self, amount: int, now: float) -> None:
        """Take so much, be it there or not."""
        self._level, self._at = self.left(now) - amount, now

    def wait(self, amount: int, now: float) -> float:
        """Seconds until so much is there; one that asks for more than fits needs a full bucket."""
        lacking = min(amount, self.per_minute) - self.left(now)
        return max(0.0, lacking * MINUTE / self.per_minute)


@dataclass(frozen=True)
class Allowance:
    """The buckets of one key."""

    key: Key
    buckets: dict[Kind, Bucket]

    @classmethod
    def of(cls, key: Key, now: float) -> "Allowance":
        """What a key begins with."""
        limits: dict[Kind, int | None] = {
            "requests": key.requests_per_minute,
            "tokens": key.tokens_per_minute,
        }
        return cls(key, {kind: Bucket(most, now) for kind, most in limits.items() if most})

    def enter(self, num_tokens: int, now: float) -> None:
        """One more request, with a prompt this long. Raises RequestError 429, and takes nothing."""
        costs: dict[Kind, int] = {"requests": 1, "tokens": num_tokens}
        for kind, bucket in self.buckets.items():
            if seconds := bucket.wait(costs[kind], now):
                raise RequestError(
                    f"Rate limit reached for {kind} of the key {self.key.name}: it is good for "
                    f"{bucket.per_minute} per minute. Please try again in {go_duration(seconds)}.",
                    reason="rate_limit_exceeded",
                    status=429,
                    kind=kind,
                    retry_seconds=seconds,
                )
        for kind, bucket in self.buckets.items():
            bucket.take(costs[kind], now)

    def spend(self, num_tokens: int, now: float) -> None:
        """So many tokens more, of a request that is in."""
        if bucket := self.buckets.get("tokens"):
            bucket.take(num_tokens, now)

    def headers(self, now: float) -> dict[str, str]:
        """OpenAI's headers, for what is limited."""
        told: dict[str, str] = {}
        for kind, bucket in self.buckets.items():
            told[f"x-ratelimit-limit-{kind}"] = str(bucket.per_minute)
            told[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.left(now))))
            told[f"x-ratelimit-reset-{kind}"] = go_duration(bucket.wait(bucket.per_minute, now))
        return told


class Allowances:
    """Those of all keys. One whose limits change begins anew."""

    def __init__(self) -> None:
        self._by_name: dict[str, Allowance] = {}

    def of(self, key: Key, now: float) -> Allowance:
        """What this key has left."""
        found = self._by_name.get(key.name)
        if found is None or found.key != key:
            found = self._by_name[key.name] = Allowance.of(key, now)
        return found


def go_duration(seconds: float) -> str:
    """As Go writes a time: 12ms, 1s, 6m0s."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
