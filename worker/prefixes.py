"""Caches of finished sessions, kept for those whose text begins alike. Pure.

A text is known by the keys of its pages: each key is a hash of a page's tokens and of the key
before it, made by the gateway with a salt of its own, so that nobody finds a text of others by
its key; nor is a cache found by another gateway than whose session it was. The caches kept longest
unused go first when pages are needed.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from shared.swarm import PeerId, SessionId, Span
from shared.wire.messages import PREFIX_PAGE_TOKENS
from worker.parts import PartKey


@dataclass(frozen=True)
class Kept:
    """A cache that begins with the pages of these keys and takes this much room."""

    key: PartKey
    gateway: PeerId
    page_keys: tuple[bytes, ...]
    pages: int


@dataclass(frozen=True)
class Match:
    """A kept cache whose first `tokens` positions a new session may copy."""

    source: PartKey
    tokens: int


class Prefixes:
    """The kept caches of one worker."""

    def __init__(self) -> None:
        self.pages = 0
        self._kept: OrderedDict[PartKey, Kept] = OrderedDict()
        self._by_page: dict[tuple[PeerId, Span, bytes], PartKey] = {}
        self._counter = 0

    def keep(
        self, gateway: PeerId, span: Span, page_keys: tuple[bytes, ...], pages: int
    ) -> PartKey | None:
        """A name under which to keep a cache; None when one that reads as far is kept already."""
        if not page_keys or (gateway, span, page_keys[-1]) in self._by_page:
            return None
        self._counter += 1
        # a name no gateway can take: real session ids have 16 bytes
        key = (SessionId(b"kept" + self._counter.to_bytes(8, "big")), span)
        self._kept[key] = Kept(key, gateway, page_keys, pages)
        self.pages += pages
        for page_key in page_keys:
            self._by_page[gateway, span, page_key] = key
        return key

    def find(self, gateway: PeerId, span: Span, page_keys: Sequence[bytes]) -> Match | None:
        """The kept cache that shares the most first pages with a text."""
        for count in range(len(page_keys), 0, -1):
            source = self._by_page.get((gateway, span, page_keys[count - 1]))
            if source is not None:
                self._kept.move_to_end(source)
                return Match(source, count * PREFIX_PAGE_TOKENS)
        return None

    def drop_covered(self) -> list[Kept]:
        """Let go of caches that are the beginning of another; those that were let go."""
        covered = [
            key
            for key, kept in self._kept.items()
            if self._by_page.get((kept.gateway, key[1], kept.page_keys[-1])) != key
        ]
        return [self._drop(key) for key in covered]

    def evict(self, pages: int) -> list[Kept]:
        """Let go of caches until `pages` are free, or none is left; those that were let go."""
        gone: list[Kept] = []
        while self._kept and sum(kept.pages for kept in gone) < pages:
            gone.append(self._drop(next(iter(self._kept))))
        return gone

    def _drop(self, key: PartKey) -> Kept:
        kept = self._kept.pop(key)
        self.pages -= kept.pages
        for page_key in kept.page_keys:
            place = (kept.gateway, key[1], page_key)
            if self._by_page.get(place) == key:
                del self._by_page[place]
        return kept
