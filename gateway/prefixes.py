"""Which routes still hold the beginning of a text, so that it need not run again. Pure.

A text is cut into pages; a page's key is a hash of its tokens, of the key before it, and at the
start of a salt. The salt holds a secret of this gateway and the tenant's name, so that no worker
can tell a text from its keys and no tenant ever meets another's pages.
"""

import hashlib
import sys
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from shared.routing import Kept
from shared.swarm import Hop, Route
from shared.wire.messages import PAGE_KEY_BYTES, PREFIX_PAGE_TOKENS

MAX_KNOWN_PAGES = 1 << 16
MAX_KEPT = 4
"""Beginnings of one text, each kept by more hops than the longer ones, that are told of."""


def page_keys(salt: bytes, tokens: Sequence[int]) -> tuple[bytes, ...]:
    """The keys of all whole pages of a text. `salt` is at most 64 bytes."""
    keys: list[bytes] = []
    key = b""
    for start in range(0, len(tokens) - PREFIX_PAGE_TOKENS + 1, PREFIX_PAGE_TOKENS):
        ids = array("i", tokens[start : start + PREFIX_PAGE_TOKENS])
        if sys.byteorder == "big":
            ids.byteswap()
        page = key + ids.tobytes()
        key = hashlib.blake2b(page, digest_size=PAGE_KEY_BYTES, key=salt).digest()
        keys.append(key)
    return tuple(keys)


class KnownPrefixes:
    """The hops that kept the caches of sessions of this gateway, the latest used."""

    def __init__(self, most: int = MAX_KNOWN_PAGES) -> None:
        self._most = most
        self._holders: OrderedDict[bytes, frozenset[Hop]] = OrderedDict()

    def remember(self, route: Route, keys: Sequence[bytes]) -> None:
        """A session over `route` ended and its hops were asked to keep these pages."""
        for key in keys:
            self._holders[key] = self._holders.pop(key, frozenset()) | set(route)
        while len(self._holders) > self._most:
            self._holders.popitem(last=False)

    def forget(self, hop: Hop, keys: Sequence[bytes]) -> None:
        """A hop turned out not to have these pages any more."""
        for key in keys:
            if key in self._holders:
                self._holders[key] -= {hop}

    def kept(self, keys: Sequence[bytes]) -> list[Kept]:
        """The hops that should still have the first pages of a text, by how many of them."""
        found: list[Kept] = []
        hops: frozenset[Hop] = frozenset()
        for count in range(len(keys), 0, -1):
            holders = self._holders.get(keys[count - 1], frozenset()) | hops
            if holders != hops and len(found) < MAX_KEPT:
                hops = holders
                found.append(Kept(hops, count * PREFIX_PAGE_TOKENS))
        return found

    def reusable(self, route: Route, keys: Sequence[bytes]) -> int:
        """How many first tokens of a text all hops of a route should still have."""
        for count in range(len(keys), 0, -1):
            if self._holders.get(keys[count - 1], frozenset()).issuperset(route):
                return count * PREFIX_PAGE_TOKENS
        return 0
