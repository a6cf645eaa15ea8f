"""Which steps to run: the position rule, epochs, pages and leases of every session. Pure.

Position is a session's only clock. A step at or before the cache's end rewinds to it and runs; a
step beyond is refused with the cache's length. So first step, prefill chunk, duplicate and refill
are one case. Lengths count what was admitted: the engine runs the steps of a session in order.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shared.errors import StepRefused
from shared.swarm import PeerId, SessionId, Span
from shared.wire.messages import Step

PartKey = tuple[SessionId, Span]
"""A session's part on this worker. A rebuilt session may have two parts on one worker."""


@dataclass
class Part:
    """What is held for one session and span."""

    gateway: PeerId
    epoch: int
    length: int
    pages: int
    deadline: float


class Sessions:
    """The sessions of one worker, within its limits."""

    def __init__(
        self,
        hosted: Span,
        *,
        pages_total: int,
        page_tokens: int,
        max_sessions: int,
        lease_seconds: float,
    ) -> None:
        self.hosted = hosted
        self.pages_total = pages_total
        self.pages_free = pages_total
        self.is_draining = False
        self._page_tokens = page_tokens
        self._max_sessions = max_sessions
        self._lease_seconds = lease_seconds
        self._parts: dict[PartKey, Part] = {}

    def __len__(self) -> int:
        return len({session for session, _ in self._parts})

    def admit(self, step: Step, now: float) -> Part | None:
        """Take a step: its session's part, grown to hold it; None when it is of an old route.

        Raises StepRefused.
        """
        span = step.hops[0].span
        key = (SessionId(step.session), span)
        part = self._parts.get(key)
        if part is not None and step.epoch < part.epoch:
            return None
        self._check(step, part)
        part = part or self._open(key, step.gateway)
        part.epoch = step.epoch
        self._grow(key, part, step.position + step.count)
        part.length = step.position + step.count
        part.deadline = now + self._lease_seconds
        return part

    def close(self, session: SessionId, gateway: PeerId) -> list[PartKey]:
        """Free a session at its gateway's word; the parts that were freed."""
        return self._free(
            key
            for key, part in self._parts.items()
            if key[0] == session and part.gateway == gateway
        )

    def forget(self, key: PartKey) -> None:
        """Free one part whose cache can no longer be trusted."""
        if key in self._parts:
            self._free([key])

    def orphan(self, gateway: PeerId, deadline: float) -> None:
        """A gateway's link is gone: its sessions end at `deadline` unless it comes back."""
        for part in self._parts.values():
            if part.gateway == gateway:
                part.deadline = min(part.deadline, deadline)

    def expire(self, now: float) -> list[PartKey]:
        """Free the parts whose lease has run out."""
        return self._free(key for key, part in self._parts.items() if part.deadline <= now)

    def _check(self, step: Step, part: Part | None) -> None:
        span = step.hops[0].span
        if not self.hosted.covers(span):
            raise StepRefused("bad_step", f"blocks {span} are not hosted here ({self.hosted} are)")
        if part is None:
            self._check_new(step)
        elif part.gateway != step.gateway:
            raise StepRefused("bad_step", "the session belongs to another gateway")
        cached = part.length if part else 0
        if step.position > cached:
            raise StepRefused(
                "position_gap", f"step at {step.position}, cached {cached}", cached=cached
            )

    def _check_new(self, step: Step) -> None:
        if self.is_draining:
            raise StepRefused("draining", "this worker is leaving and takes no new session")
        if len(self) >= self._max_sessions:
            raise StepRefused("no_pages", f"{len(self)} sessions are the most this worker holds")

    def _open(self, key: PartKey, gateway: PeerId) -> Part:
        part = self._parts[key] = Part(gateway, epoch=0, length=0, pages=0, deadline=0.0)
        return part

    def _grow(self, key: PartKey, part: Part, tokens: int) -> None:
        """Reserve pages for `tokens`, and half as many again if they can be had."""
        needed = -(-tokens // self._page_tokens)
        if needed <= part.pages:
            return
        wanted = max(needed, part.pages + part.pages // 2)
        extra = min(wanted, part.pages + self.pages_free) - part.pages
        if part.pages + extra < needed:
            if part.length == 0:
                del self._parts[key]
                self.pages_free += part.pages
            raise StepRefused(
                "no_pages",
                f"{tokens} tokens need {needed - part.pages} pages, {self.pages_free} are free",
            )
        part.pages += extra
        self.pages_free -= extra

    def _free(self, keys: Iterable[PartKey]) -> list[PartKey]:
        freed = list(keys)
        for key in freed:
            self.pages_free += self._parts.pop(key).pages
        return freed
