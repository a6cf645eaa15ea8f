"""What every store promises, and what each kind of store does beside."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.metrics import GatewayMetrics
from gateway.redis_store import RedisStore, address_of, open_store
from gateway.steady_store import REST_SECONDS, SILENCE_SECONDS, SteadyStore
from gateway.store import (
    ENTRY_OVERHEAD_BYTES,
    MAX_ENTRY_BYTES,
    EntryTooLarge,
    MemoryStore,
    Store,
    StoreError,
)
from shared.errors import ConfigError
from tests.store_server import StoreServer, store_server

LONG = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with store_server(tmp_path_factory.mktemp("store")) as started:
        yield started


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    if request.param == "memory":
        opened: Store = MemoryStore(1 << 26)
    else:
        server: StoreServer = request.getfixturevalue("server")
        server.kill()
        server.start()
        opened = RedisStore(server.url, timeout_seconds=10)
    yield opened
    await opened.close()


# --- every store ---


async def test_what_was_put_is_there_and_what_was_not_is_none(store: Store):
    await store.put("a", b"\x00\xff", seconds=LONG)
    await store.put("a", b"new", seconds=LONG)
    assert await store.get("a") == b"new"
    assert await store.get("b") is None


async def test_an_append_adds_only_where_it_expects_the_end(store: Store):
    assert await store.append("a", b"one", at=0, seconds=LONG) == 3
    assert await store.append("a", b"two", at=3, seconds=LONG) == 6
    assert await store.append("a", b"late", at=3, seconds=LONG) == 6
    assert await store.append("b", b"early", at=3, seconds=LONG) == 0
    assert (await store.get("a"), await store.get("b")) == (b"onetwo", None)


async def test_a_swap_happens_only_when_the_old_value_is_there(store: Store):
    assert await store.swap("a", None, b"1", seconds=LONG)
    assert not await store.swap("a", None, b"2", seconds=LONG)
    assert not await store.swap("a", b"2", b"3", seconds=LONG)
    assert await store.swap("a", b"1", b"4", seconds=LONG)
    assert await store.get("a") == b"4"
    assert await store.swap("a", b"4", None, seconds=LONG)
    assert await store.get("a") is None
    assert not await store.swap("a", b"4", b"5", seconds=LONG)
    assert await store.swap("a", None, b"", seconds=LONG)
    assert await store.swap("a", b"", b"6", seconds=LONG)


async def test_of_many_swaps_at_once_one_happens(store: Store):
    tries = [store.swap("a", None, bytes([number]), seconds=LONG) for number in range(20)]
    assert sum(await asyncio.gather(*tries)) == 1


async def test_time_ends_what_is_stored_and_each_write_begins_it_anew(store: Store):
    await store.put("a", b"1", seconds=0.05)
    await store.append("b", b"1", at=0, seconds=0.05)
    await store.append("c", b"1", at=0, seconds=0.05)
    assert await store.append("c", b"", at=1, seconds=LONG) == 1
    await store.swap("d", None, b"1", seconds=0.05)
    async with asyncio.timeout(5):
        while any([await store.get(key) for key in "abd"]):  # noqa: ASYNC110 - a server's clock
            await asyncio.sleep(0.01)
    assert await store.get("c") == b"1"
    assert await store.append("b", b"new", at=0, seconds=LONG) == 3


async def test_no_entry_grows_beyond_its_bound(store: Store):
    with pytest.raises(EntryTooLarge):
        await store.put("a", bytes(MAX_ENTRY_BYTES + 1), seconds=LONG)
    await store.append("a", bytes(MAX_ENTRY_BYTES), at=0, seconds=LONG)
    with pytest.raises(EntryTooLarge):
        await store.append("a", b"1", at=MAX_ENTRY_BYTES, seconds=LONG)


# --- memory ---


async def test_memory_forgets_what_was_not_touched_for_longest():
    store = MemoryStore(3 * (ENTRY_OVERHEAD_BYTES + 10))
    for key in "abc":
        await store.put(key, bytes(10), seconds=LONG)
    await store.get("a")
    await store.put("d", bytes(10), seconds=LONG)
    assert [key for key in "abcd" if await store.get(key) is not None] == ["a", "c", "d"]
    assert store.num_bytes == 3 * (ENTRY_OVERHEAD_BYTES + 10)


async def test_memory_gives_back_what_expired_or_was_taken_away():
    now = 0.0
    store = MemoryStore(1 << 20, clock=lambda: now)
    await store.put("a", bytes(10), seconds=1)
    await store.append("b", bytes(10), at=0, seconds=1)
    await store.swap("b", bytes(10), None, seconds=1)
    now = 2.0
    assert await store.get("a") is None
    assert store.num_bytes == 0


async def test_memory_refuses_what_can_never_fit():
    with pytest.raises(EntryTooLarge):
        await MemoryStore(1000).put("a", bytes(1000), seconds=LONG)


# --- a server ---


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://a:1/",
        "redis://",
        "redis:///0",
        "redis://a:port/0",
        "redis://a:99999",
    ],
)
def test_a_malformed_url_is_the_operator_s_mistake(url: str):
    with pytest.raises(ConfigError, match="resume store"):
        open_store(url, max_bytes=1)


def test_a_database_that_is_no_number_is_the_operator_s_mistake():
    with pytest.raises(ConfigError, match="resume store"):
        open_store("redis://a:1/x?socket_timeout=many", max_bytes=1)


def test_an_address_is_told_without_its_password():
    assert address_of("rediss://me:secret@store.example:7000/2") == "store.example:7000"
    assert address_of("valkey://store.example") == "store.example:6379"


async def test_a_server_that_is_away_is_a_store_error_and_its_return_is_noticed(tmp_path: Path):
    with store_server(tmp_path) as server:
        store = RedisStore(server.url, timeout_seconds=10)
        await store.put("a", b"1", seconds=LONG)
        server.kill()
        for call in (store.check(), store.get("a"), store.swap("a", None, b"", seconds=LONG)):
            with pytest.raises(StoreError, match=f":{server.port}"):
                await call
        server.start()
        await store.check()
        assert await store.append("a", b"1", at=0, seconds=LONG) == 1
        await store.close()


async def test_a_server_that_says_nothing_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}/0", timeout_seconds=0.05)
        with pytest.raises(StoreError):
            async with asyncio.timeout(5):
                await store.get("a")
        await store.close()


# --- a store in trouble ---


class Moody(MemoryStore):
    """Fails while it is told to."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.is_well = True
        self.num_calls = 0

    async def get(self, key: str) -> bytes | None:
        self.num_calls += 1
        if not self.is_well:
            raise StoreError("away")
        return await super().get(key)


async def test_a_store_that_failed_is_left_alone_for_a_moment_and_logged_once_in_a_while():
    now, moody, metrics = 0.0, Moody(), GatewayMetrics()
    store = SteadyStore(moody, metrics, clock=lambda: now)
    moody.is_well = False
    with capture_logs() as logs:
        for _ in range(3):
            for _ in range(3):
                with pytest.raises(StoreError):
                    await store.get("a")
            now += REST_SECONDS
        now += SILENCE_SECONDS
        with pytest.raises(StoreError):
            await store.get("a")
        now += REST_SECONDS
        moody.is_well = True
        assert await store.get("a") is None
    assert moody.num_calls == 5
    assert [line["event"] for line in logs] == [*2 * ["resume_store_failed"], "resume_store_back"]
    assert metrics.registry.get_sample_value("brigade_gateway_resume_store_failures_total") == 4


async def test_an_entry_that_is_too_large_does_not_count_as_trouble():
    store = SteadyStore(MemoryStore(1000), GatewayMetrics())
    with pytest.raises(EntryTooLarge):
        await store.put("a", bytes(2000), seconds=LONG)
    await store.put("a", b"1", seconds=LONG)
