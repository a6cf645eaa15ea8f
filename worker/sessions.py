"""Which steps to run: the position rule, epochs, pages and leases of every session. Pure.

Position is a session's only clock. A step at or before the cache's end rewinds to it and runs; a
step beyond is refused with the cache's length. So first step, prefill chunk, duplicate and refill
are one case. Lengths count what was admitted: the engine runs the steps of a session in order.

When nothing is left, a gateway that has less than its share gets it from those that have more,
see shares.py: a stranger cannot take the whole worker.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shared.errors import StepRefused
from shared.swarm import PeerId, SessionId, Span
from shared.wire.messages import MAX_EPOCH, PREFIX_PAGE_TOKENS, Step
from worker.parts import PartKey, part_of
from worker.prefixes import Kept, Match, Prefixes
from worker.shares import Shares

MAX_CLOSED = 4096
"""Closed sessions remembered, of all gateways; of the one with the most, the oldest go first."""
KEPT_SHARE = 0.5
"""Share of all pages that caches of finished sessions may hold."""


@dataclass
class Part:
    """What is held for one session and span."""

    gateway: PeerId
    epoch: int
    length: int
    pages: int
    deadline: float
    adopts: Match | None = None
    """The kept cache its first positions are copied from."""


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
        address_of: Callable[[PeerId], str] = lambda gateway: gateway,
    ) -> None:
        """`address_of` says where on the network a gateway is."""
        self.address_of = address_of
        self.hosted = hosted
        self.pages_total = pages_total
        self.pages_free = pages_total
        self.is_draining = False
        self.prefixes = Prefixes()
        self._evicted: list[PartKey] = []
        self._revoked: list[tuple[PartKey, Part]] = []
        self._closed: dict[PeerId, OrderedDict[SessionId, int]] = {}
        self._num_closed = 0
        self._page_tokens = page_tokens
        self._max_sessions = max_sessions
        self._lease_seconds = lease_seconds
        self._parts: dict[PartKey, Part] = {}

    def __len__(self) -> int:
        return len({session for session, _ in self._parts})

    def __contains__(self, key: PartKey) -> bool:
        return key in self._parts

    def admit(self, step: Step, now: float) -> Part | None:
        """Take a step: its session's part, grown to hold it; None when it is of an old route.

        Raises StepRefused.
        """
        span = step.hops[0].span
        key = part_of(step)
        part = self._parts.get(key)
        if self.is_closed(key[0], step.gateway, step.epoch):
            return None
        if part is not None and step.epoch < part.epoch:
            return None
        match = None if part else self.prefixes.find(step.gateway, span, step.prefix)
        self._check(step, part, match.tokens if match else 0)
        self._make_room(step, part)
        part = part or Part(step.gateway, epoch=0, length=0, pages=0, deadline=0.0)
        part.adopts = match if step.position > 0 else None
        self._grow(part, step.position + step.count)
        self._parts[key] = part
        part.epoch = step.epoch
        part.length = step.position + step.count
        part.deadline = now + self._lease_seconds
        return part

    def is_closed(self, session: SessionId, gateway: PeerId, epoch: int) -> bool:
        """Whether the session's gateway is done with what this worker did for it in `epoch`."""
        return epoch <= self._closed.get(gateway, {}).get(session, -1)

    def close(self, session: SessionId, gateway: PeerId, epoch: int = MAX_EPOCH) -> list[PartKey]:
        """Free what a session has held since `epoch` or before, at its gateway's word: the parts.

        Steps of it may still be on their way from other workers, so it is remembered as closed.
        """
        closed = self._closed.setdefault(gateway, OrderedDict())
        self._num_closed += session not in closed
        closed[session] = max(epoch, closed.get(session, -1))
        if self._num_closed > MAX_CLOSED:
            self._forget_a_closed()
        return self._free(
            key
            for key, part in self._parts.items()
            if key[0] == session and part.gateway == gateway and part.epoch <= epoch
        )

    def keep(
        self, session: SessionId, gateway: PeerId, page_keys: tuple[bytes, ...]
    ) -> list[tuple[PartKey, PartKey]]:
        """Keep a finished session's caches for texts that begin alike: (part, new name) pairs."""
        kept: list[tuple[PartKey, PartKey]] = []
        for key, part in list(self._parts.items()):
            if key[0] != session or part.gateway != gateway:
                continue
            usable = page_keys[: part.length // PREFIX_PAGE_TOKENS]
            if name := self.prefixes.keep(gateway, key[1], usable, part.pages):
                del self._parts[key]
                kept.append((key, name))
        self._let_go(self.prefixes.drop_covered())
        self._evict(self.prefixes.pages - int(self.pages_total * KEPT_SHARE))
        return kept

    def take_evicted(self) -> list[PartKey]:
        """The kept caches that were let go of since the last call."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def take_revoked(self) -> list[tuple[PartKey, Part]]:
        """What was taken from gateways that had more than their share since the last call."""
        revoked, self._revoked = self._revoked, []
        return revoked

    @property
    def pages_available(self) -> int:
        """Pages a new session could have: the free ones and those of kept caches."""
        return self.pages_free + self.prefixes.pages

    def forget(self, key: PartKey) -> int:
        """Free one part whose cache can no longer be trusted; its epoch, 0 when it was gone."""
        part = self._parts.get(key)
        if part is None:
            return 0
        self._free([key])
        return part.epoch

    def orphan(self, gateway: PeerId, deadline: float) -> None:
        """A gateway's link is gone: its sessions end at `deadline` unless it comes back."""
        for part in self._parts.values():
            if part.gateway == gateway:
                part.deadline = min(part.deadline, deadline)

    def expire(self, now: float) -> list[PartKey]:
        """Free the parts whose lease has run out."""
        return self._free(key for key, part in self._parts.items() if part.deadline <= now)

    def _check(self, step: Step, part: Part | None, kept: int) -> None:
        span = step.hops[0].span
        if not self.hosted.covers(span):
            raise StepRefused("bad_step", f"blocks {span} are not hosted here ({self.hosted} are)")
        if part is None and self.is_draining:
            raise StepRefused("draining", "this worker is leaving and takes no new session")
        if part is not None and part.gateway != step.gateway:
            raise StepRefused("bad_step", "the session belongs to another gateway")
        cached = part.length if part else kept
        if step.position > cached:
            raise StepRefused(
                "position_gap", f"step at {step.position}, cached {cached}", cached=cached
            )

    def _make_room(self, step: Step, part: Part | None) -> None:
        """See to a place for a new session and to pages, if need be at the cost of others.

        Raises StepRefused, before anything is taken from anybody.
        """
        gateway, session, tokens = step.gateway, SessionId(step.session), step.position + step.count
        is_full = part is None and self._is_full_for(session)
        if is_full and not self._session_shares().allow(gateway, 1):
            raise StepRefused("no_pages", f"{self._max_sessions} sessions are the most held here")
        more = self._pages_of(tokens) - (part.pages if part else 0)
        if more > self.pages_available and not self._page_shares().allow(gateway, more):
            raise StepRefused(
                "no_pages", f"{tokens} tokens need {more} pages, {self.pages_available} are free"
            )
        while is_full and self._is_full_for(session):
            self._revoke(self._session_shares().debtor(gateway))
        while more > self.pages_available:
            self._revoke(self._page_shares().debtor(gateway))

    def _is_full_for(self, session: SessionId) -> bool:
        return len({other for other, _ in self._parts if other != session}) >= self._max_sessions

    def _revoke(self, gateway: PeerId | None) -> None:
        """Take back the session of this gateway that was stepped longest ago.

        Raises StepRefused when nobody has anything that is owed.
        """
        theirs = {key: part for key, part in self._parts.items() if part.gateway == gateway}
        if not theirs:
            raise StepRefused("no_pages", "nobody here holds more than a fair share")
        session, _ = min(theirs, key=lambda key: theirs[key].deadline)
        revoked = {key: part for key, part in theirs.items() if key[0] == session}
        self._revoked += revoked.items()
        self._free(revoked)

    def _session_shares(self) -> Shares:
        held = {(session, part.gateway) for (session, _), part in self._parts.items()}
        counts = Counter(gateway for _, gateway in held)
        return Shares(self._max_sessions, counts, self.address_of)

    def _page_shares(self) -> Shares:
        held = Counter[PeerId]()
        for part in self._parts.values():
            held[part.gateway] += part.pages
        return Shares(self.pages_total, held, self.address_of)

    def _pages_of(self, tokens: int) -> int:
        return -(-tokens // self._page_tokens)

    def _forget_a_closed(self) -> None:
        gateway = max(self._closed, key=lambda gateway: len(self._closed[gateway]))
        self._closed[gateway].popitem(last=False)
        self._num_closed -= 1
        if not self._closed[gateway]:
            del self._closed[gateway]

    def _grow(self, part: Part, tokens: int) -> None:
        """Reserve pages for `tokens`, and half as many again if they can be had."""
        needed = self._pages_of(tokens)
        if needed <= part.pages:
            return
        wanted = max(needed, part.pages + part.pages // 2)
        self._evict(needed - part.pages - self.pages_free)
        extra = min(wanted, part.pages + self.pages_free) - part.pages
        part.pages += extra
        self.pages_free -= extra

    def _evict(self, pages: int) -> None:
        if pages > 0:
            self._let_go(self.prefixes.evict(pages))

    def _let_go(self, gone: list[Kept]) -> None:
        self._evicted += [kept.key for kept in gone]
        self.pages_free += sum(kept.pages for kept in gone)

    def _free(self, keys: Iterable[PartKey]) -> list[PartKey]:
        freed = list(keys)
        for key in freed:
            self.pages_free += self._parts.pop(key).pages
        return freed
