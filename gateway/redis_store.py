"""A store that replicas share: any server that speaks Redis' protocol, such as Valkey."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.store import MemoryStore, Store, StoreError, check_size
from shared.errors import ConfigError

T = TypeVar("T")

PREFIX: Final = "brigade:"
MAX_CONNECTIONS: Final = 32
TIMEOUT_SECONDS: Final = 1.0
SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}

APPEND: Final = """
local size = redis.call('STRLEN', KEYS[1])
if size ~= tonumber(ARGV[1]) then return size end
size = redis.call('APPEND', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return size
"""

SWAP: Final = """
local stored = redis.call('GET', KEYS[1])
if stored ~= (ARGV[1] == '1' and ARGV[2]) then return 0 end
if ARGV[3] == '1' then redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
else redis.call('DEL', KEYS[1]) end
return 1
"""
"""`GET` of an absent key is false in Lua, and so is the absence that is asked for."""


class RedisStore:
    """Each call takes `timeout_seconds` at most. Connections are made anew as they are needed."""

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Raises ConfigError when the URL cannot be one."""
        self.address = address_of(url)
        self._timeout_seconds = timeout_seconds
        self._pool = _pool(url, timeout_seconds)
        self._redis = cast(Any, Redis(connection_pool=self._pool))
        self._append = self._redis.register_script(APPEND)
        self._swap = self._redis.register_script(SWAP)

    async def get(self, key: str) -> bytes | None:
        """See Store."""
        return await self._ask(self._redis.get(PREFIX + key))

    async def put(self, key: str, value: bytes, *, seconds: float) -> None:
        """See Store."""
        check_size(len(value))
        await self._ask(self._redis.set(PREFIX + key, value, px=_milliseconds(seconds)))

    async def append(self, key: str, value: bytes, *, at: int, seconds: float) -> int:
        """See Store."""
        check_size(at + len(value))
        arguments = [at, value, _milliseconds(seconds)]
        return int(await self._ask(self._append(keys=[PREFIX + key], args=arguments)))

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, seconds: float) -> bool:
        """See Store."""
        check_size(len(new or b""))
        arguments = [*_optional(old), *_optional(new), _milliseconds(seconds)]
        return bool(await self._ask(self._swap(keys=[PREFIX + key], args=arguments)))

    async def check(self) -> None:
        """See Store."""
        await self._ask(self._redis.ping())

    async def close(self) -> None:
        """See Store."""
        await self._redis.aclose()
        await self._pool.disconnect()

    async def _ask(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await answer
        except (RedisError, OSError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise StoreError(f"the store at {self.address} failed: {why}") from error


def open_store(url: str, *, max_bytes: int) -> Store:
    """The store that a setting names; without a name `max_bytes` of memory.

    Raises ConfigError when the URL cannot be one.
    """
    return RedisStore(url) if url else MemoryStore(max_bytes)


def address_of(url: str) -> str:
    """Host and port, without the password. Raises ConfigError for what is no such URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError as error:
        raise ConfigError(f"the resume store's URL is malformed: {error}") from error
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ConfigError(
            "the resume store's URL has to look like redis://HOST:PORT/0 or valkey://...; with "
            "TLS rediss:// or valkeys://, with a password redis://USER:PASSWORD@HOST:PORT/0"
        )
    return f"{parts.hostname}:{port}"


def _pool(url: str, timeout_seconds: float) -> BlockingConnectionPool:
    scheme, _, rest = url.partition("://")
    make = cast(Any, BlockingConnectionPool).from_url
    try:
        return make(
            f"{SCHEMES[scheme.lower()]}://{rest}",
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the resume store's URL is malformed: {error}") from error


def _milliseconds(seconds: float) -> int:
    return max(1, round(1000 * seconds))


def _optional(value: bytes | None) -> tuple[str, bytes]:
    return ("0", b"") if value is None else ("1", value)
