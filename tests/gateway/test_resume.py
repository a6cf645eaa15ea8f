"""Clients that come back for an answer: at every cut, on any replica, whatever befell the first."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from gateway import resume_lease, resume_writer
from gateway.admission import Admission
from gateway.generator import Token
from gateway.metrics import GatewayMetrics
from gateway.resume import Archive, key_of
from gateway.resume_lease import Lease
from gateway.resume_record import EventId, Head, Record, encode_head, encode_token
from gateway.resume_writer import Entry, Writer
from gateway.services import Services
from gateway.steady_store import SteadyStore
from gateway.store import MemoryStore, StoreError
from shared.errors import GenerationFailed
from shared.wire.messages import Sampling, TokenLogprobs
from tests.fakes import END, FakeGenerator, tokens_of
from tests.gateway.conftest import in_memory, served, services_around, until

URL = "/v1/chat/completions"
ASK: dict[str, Any] = {
    "model": "acme/tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": True,
    "stop": ["zz", "€€"],
}
WHOLE = {name: ASK[name] for name in ("model", "messages", "logprobs", "stop")}
RESUMABLE = {"x-resumable": "1"}
SAID = f"a€😀 zy€b{END}"


HEAD = Head("me", b"d", b"{}", "chatcmpl-1", 1, b"\1\0\0\0", 9, (2, 3), Sampling(seed=4))


def says(text: str = SAID, **changes: Any) -> FakeGenerator:
    told = {i: TokenLogprobs(-0.5 - i / 8, (i,), (-0.5,)) for i in tokens_of(text)}
    return FakeGenerator(tokens_of(text), logprobs=told, cached_tokens=3, **changes)


def archive(store: MemoryStore | None = None) -> Archive:
    return Archive(store or MemoryStore(1 << 24), seconds=60)


@dataclass(frozen=True)
class Event:
    """One event of a stream, and what stood in its `id:` line."""

    id: str
    data: Any


@dataclass(frozen=True)
class Told:
    """All that a client can make of a stream."""

    text: str
    logprobs: list[Any]
    roles: list[str]
    finishes: list[str]
    usages: list[Any]
    heads: set[tuple[Any, ...]]


def told(events: list[Event]) -> Told:
    chunks = [event.data for event in events]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    deltas = [choice["delta"] for choice in choices]
    return Told(
        text="".join(delta.get("content", "") for delta in deltas),
        logprobs=[e for c in choices for e in (c["logprobs"] or {"content": []})["content"]],
        roles=[delta["role"] for delta in deltas if "role" in delta],
        finishes=[c["finish_reason"] for c in choices if c["finish_reason"]],
        usages=[chunk["usage"] for chunk in chunks if chunk["usage"]],
        heads={
            tuple(c[n] for n in ("id", "created", "model", "system_fingerprint")) for c in chunks
        },
    )


class Parser:
    """An EventSource: an event is what stands before a blank line and has data."""

    def __init__(self) -> None:
        self.id, self.data = "", ""

    def line(self, line: str) -> Event | None:
        name, _, value = line.partition(": ")
        if name == "id":
            self.id = value
        if name == "data":
            self.data = value
        if line or not self.data:
            return None
        data, self.data = self.data, ""
        return Event(self.id, data if data == "[DONE]" else json.loads(data))


def events_of(response: httpx.Response) -> list[Event]:
    assert response.status_code == 200, response.text
    parser = Parser()
    events = [event for line in response.text.split("\n") if (event := parser.line(line))]
    assert events.pop().data == "[DONE]"
    return events


async def hear(response: httpx.Response) -> AsyncIterator[Event]:
    """The events of a stream as they come, without [DONE]."""
    parser = Parser()
    async for line in response.aiter_lines():
        if (event := parser.line(line)) and event.data != "[DONE]":
            yield event


def error_of(response: httpx.Response) -> dict[str, Any]:
    return {"status": response.status_code} | response.json()["error"]


@asynccontextmanager
async def client_of(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        served(services) as (url, _),
        httpx.AsyncClient(base_url=url, timeout=20) as client,
    ):
        yield client


@pytest.fixture
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_lease, "LEASE_SECONDS", 0.4)


# --- ids ---


async def test_events_have_ids_only_where_they_were_asked_for():
    async with in_memory(says()) as client:
        plain = await client.post(URL, json=ASK)
        keyed = await client.post(URL, json=ASK, headers={"idempotency-key": "k"})
        asked = await client.post(URL, json=ASK, headers=RESUMABLE)
    assert "id: " not in plain.text + keyed.text
    ids = [event.id for event in events_of(asked)]
    assert len({id.partition(":")[0] for id in ids}) == 1
    assert [id.partition(":")[2] for id in ids][-2:] == ["finish", "usage"]
    assert len(set(ids)) == len(ids)


async def test_the_sdk_reads_a_stream_with_ids_and_keep_alives():
    pause = asyncio.Event()
    asyncio.get_running_loop().call_later(1, pause.set)
    services = services_around(says(pauses={3: pause}), keep_alive_seconds=0.005)
    async with (
        served(services) as (url, _),
        openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as sdk,
    ):
        stream = await sdk.chat.completions.create(**ASK, extra_headers=RESUMABLE)
        chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "a€😀 zy€b"
    assert chunks[-1].usage is not None


@pytest.mark.parametrize("text", [SAID, f"ab zz!{END}", f"a€€{END}", "z€z" * 3, END])
async def test_behind_every_event_comes_exactly_the_rest(text: str):
    async with in_memory(says(text)) as client:
        body = ASK | {"max_tokens": 17}
        whole = events_of(await client.post(URL, json=body, headers=RESUMABLE))
        for cut in range(len(whole)):
            header = {"last-event-id": whole[cut].id}
            rest = events_of(await client.post(URL, json=body, headers=header))
            assert told(whole[: cut + 1] + rest) == told(whole)
            assert {event.id for event in rest} == {event.id for event in whole[cut + 1 :]}


async def test_a_record_that_lags_behind_the_client_or_is_ahead_of_it_serves_as_well():
    store = MemoryStore(1 << 24)
    shared = archive(store)
    async with in_memory(says(), archive=shared) as client:
        whole = events_of(await client.post(URL, json=ASK, headers=RESUMABLE))
    stream = whole[0].id.partition(":")[0]
    await asyncio.gather(*shared._writing)  # pyright: ignore[reportPrivateUsage]
    record = Record.decode(await store.get(key_of(stream)) or b"")
    assert record is not None
    assert record.token_ids == tuple(tokens_of(SAID))
    for num_kept in range(len(record.tokens)):
        raw = encode_head(record.head) + b"".join(map(encode_token, record.tokens[:num_kept]))
        for cut in range(0, len(whole), 2):
            generator = says()
            mended = MemoryStore(1 << 24)
            await mended.put(key_of(stream), raw, seconds=60)
            async with in_memory(generator, archive=archive(mended)) as client:
                header = {"last-event-id": whole[cut].id}
                rest = events_of(await client.post(URL, json=ASK, headers=header))
            assert told(whole[: cut + 1] + rest) == told(whole)
            assert generator.calls[0]["made"] == record.token_ids[:num_kept]


# --- coming back ---


async def test_a_client_that_vanished_finds_the_rest_on_another_replica():
    shared, first, second = MemoryStore(1 << 24), says(pauses={9: asyncio.Event()}), says()
    heard: list[Event] = []
    async with client_of(services_around(first, archive=archive(shared))) as client:
        async with client.stream("POST", URL, json=ASK, headers=RESUMABLE) as response:
            async for event in hear(response):
                heard.append(event)
                if len(told(heard).text) == 4:
                    break
        await until(first.closed.is_set, seconds=1)
        async with in_memory(second, archive=archive(shared)) as other:
            header = {"last-event-id": heard[-1].id}
            rest = events_of(await other.post(URL, json=ASK, headers=header))
    whole = told(heard + rest)
    assert (whole.text, whole.finishes, len(whole.heads)) == ("a€😀 zy€b", ["stop"], 1)
    assert whole.usages[0]["prompt_tokens_details"]["cached_tokens"] == 3
    assert second.calls[0]["made"] == tuple(tokens_of(SAID))[:9]
    assert second.calls[0]["sampling"] == first.calls[0]["sampling"]


@pytest.mark.parametrize("is_same_replica", [True, False])
async def test_whoever_comes_back_last_has_the_stream_and_the_other_ends(is_same_replica: bool):
    shared, pause = MemoryStore(1 << 24), asyncio.Event()
    first = says(pauses={5: pause})
    second = first if is_same_replica else says()
    async with (
        client_of(services_around(first, archive=archive(shared))) as client,
        client_of(services_around(second, archive=archive(shared))) as other,
        client.stream("POST", URL, json=ASK, headers=RESUMABLE) as response,
    ):
        hearing = hear(response)
        begun = [await anext(hearing), await anext(hearing)]
        there = client if is_same_replica else other
        header = {"last-event-id": begun[-1].id}
        coming_back = asyncio.create_task(there.post(URL, json=ASK, headers=header))
        lost = [event async for event in hearing]
        assert lost[-1].data["error"]["code"] == "stream_taken_over"
        pause.set()
        assert told(begun + events_of(await coming_back)).text == "a€😀 zy€b"


async def test_a_replica_that_died_is_waited_for_no_longer_than_its_lease(quick_leases: None):
    store, generator = MemoryStore(1 << 24), says()
    async with in_memory(says(failure=None), archive=archive(store)) as client:
        whole = events_of(await client.post(URL, json=ASK, headers=RESUMABLE))
    stream = whole[0].id.partition(":")[0]
    record = Record.decode(await store.get(key_of(stream)) or b"")
    assert record is not None
    await store.put(key_of(stream), encode_head(record.head), seconds=60)
    await store.put(f"{key_of(stream)}:lease", b"dead", seconds=60)
    async with asyncio.timeout(5), in_memory(generator, archive=archive(store)) as client:
        response = await client.post(URL, headers={"last-event-id": whole[0].id})
    assert told(whole[:1] + events_of(response)) == told(whole)
    assert len(generator.calls) == 1


async def test_a_stream_that_failed_can_be_gone_on_with():
    shared = archive()
    failing = says("a€", failure=GenerationFailed("worker_lost", "blocks 8:16 were lost"))
    async with in_memory(failing, archive=shared) as client:
        *begun, failed = events_of(await client.post(URL, json=ASK, headers=RESUMABLE))
    assert failed.data["error"]["code"] == "worker_lost"
    async with in_memory(says(), archive=shared) as client:
        rest = await client.post(URL, json=ASK, headers={"last-event-id": begun[-1].id})
    assert told(begun + events_of(rest)).text == "a€😀 zy€b"


@pytest.mark.parametrize("id", ["x", "1", f"{'a' * 32}:4", f"{'a' * 32}:-1", f"{'a' * 32}:finish"])
async def test_an_unknown_id_is_404_and_names_the_remedy(id: str):
    async with in_memory(says()) as client:
        response = await client.post(URL, json=ASK, headers={"last-event-id": id})
    error = error_of(response)
    assert (error["status"], error["code"]) == (404, "stream_not_found")
    assert "without Last-Event-ID" in error["message"]


async def test_an_answer_is_its_caller_s_alone():
    async with in_memory(says()) as client:
        mine = RESUMABLE | {"authorization": "Bearer mine", "idempotency-key": "k"}
        (first, *_) = events_of(await client.post(URL, json=ASK, headers=mine))
        theirs = {"authorization": "Bearer theirs"}
        named = await client.post(URL, json=ASK, headers=theirs | {"last-event-id": first.id})
        assert error_of(named)["code"] == "stream_not_found"
        keyed = await client.post(URL, json=ASK, headers=theirs | {"idempotency-key": "k"})
        assert events_of(keyed)[0].data["id"] != first.data["id"]


async def test_an_id_goes_with_the_same_body_or_none():
    async with in_memory(says()) as client:
        (first, *_) = events_of(await client.post(URL, json=ASK, headers=RESUMABLE))
        header = {"last-event-id": first.id}
        other = await client.post(URL, json=ASK | {"seed": 1}, headers=header)
        assert (other.status_code, error_of(other)["code"]) == (400, "stream_mismatch")
        reordered = dict(reversed(ASK.items()))
        for same in (await client.post(URL, json=reordered, headers=header),):
            assert told(events_of(same)).text == "a€😀 zy€b"
        assert told(events_of(await client.post(URL, headers=header))).text == "a€😀 zy€b"


# --- idempotency keys ---


@pytest.mark.parametrize("body", [ASK, WHOLE])
async def test_the_same_request_with_the_same_key_gets_the_same_answer(body: dict[str, Any]):
    generator, key = says(), {"idempotency-key": "order 66"}
    async with in_memory(generator) as client:
        first = await client.post(URL, json=body, headers=key)
        second = await client.post(URL, json=body, headers=key)
    assert len(generator.calls) == 1
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    if body is WHOLE:
        assert first.json() == second.json()
    else:
        assert told(events_of(first)) == told(events_of(second))


async def test_twins_that_come_together_get_one_answer_made_once():
    pause, admission = asyncio.Event(), Admission(max_streams=1, max_waiting=0)
    generator, key = says(pauses={4: pause}), {"idempotency-key": "k"}
    async with in_memory(generator, admission=admission) as client:
        asking = [asyncio.create_task(client.post(URL, json=WHOLE, headers=key)) for _ in range(4)]
        await until(lambda: admission.num_running == 1)
        await asyncio.sleep(2 * resume_lease.BEAT_SECONDS)
        pause.set()
        answers = [(await asked).json() for asked in asking]
    assert answers == 4 * [answers[0]]
    assert len(generator.calls) == 1


async def stopped(store: MemoryStore, key: dict[str, str]) -> tuple[Any, str]:
    """An answer that a stop string ended, its last token no last one, and where its record is."""
    shared, saying = archive(store), says("ab zz cd", pauses={6: asyncio.Event()})
    async with in_memory(saying, archive=shared) as client:
        answer = (await client.post(URL, json=WHOLE, headers=key)).json()
    await asyncio.gather(*shared._writing)  # pyright: ignore[reportPrivateUsage]
    (name,) = (n for n in store._entries if n.startswith("answer"))  # pyright: ignore[reportPrivateUsage]
    return answer, name


async def test_an_answer_that_a_stop_string_ended_is_not_made_again():
    store, generator, key = MemoryStore(1 << 24), says(), {"idempotency-key": "k"}
    answer, _ = await stopped(store, key)
    async with in_memory(generator, archive=archive(store)) as client:
        assert (await client.post(URL, json=WHOLE, headers=key)).json() == answer
    assert generator.calls == []


async def test_an_answer_that_ends_while_others_wait_for_it_is_not_made_again():
    store, generator, key = MemoryStore(1 << 24), says(), {"idempotency-key": "k"}
    answer, name = await stopped(store, key)
    raw = await store.get(name) or b""
    record = Record.decode(raw)
    assert record is not None
    await store.put(name, encode_head(record.head), seconds=60)
    await store.put(f"{name}:lease", b"another", seconds=60)
    async with in_memory(generator, archive=archive(store)) as client:
        asking = asyncio.create_task(client.post(URL, json=WHOLE, headers=key))
        await asyncio.sleep(0.3)
        await store.put(name, raw, seconds=60)
        await store.swap(f"{name}:lease", b"another", None, seconds=1)
        assert (await asking).json() == answer
    assert generator.calls == []


async def test_an_answer_whose_client_vanished_is_gone_on_with_where_it_was_left():
    pauses = {7: asyncio.Event()}
    shared, first, second = MemoryStore(1 << 24), says(pauses=pauses), says()
    key = {"idempotency-key": "k"}
    async with client_of(services_around(first, archive=archive(shared))) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(URL, json=WHOLE, headers=key, timeout=0.8)
        async with in_memory(second, archive=archive(shared)) as other:
            answer = (await other.post(URL, json=WHOLE, headers=key)).json()
    assert answer["choices"][0]["message"]["content"] == "a€😀 zy€b"
    assert second.calls[0]["made"] == tuple(tokens_of(SAID))[:7]


async def test_a_key_belongs_to_one_request():
    async with in_memory(says()) as client:
        key = {"idempotency-key": "k"}
        await client.post(URL, json=WHOLE, headers=key)
        other = await client.post(URL, json=WHOLE | {"seed": 1}, headers=key)
        assert (other.status_code, error_of(other)["code"]) == (400, "idempotency_key_reuse")
        first = await client.post(URL, json=WHOLE, headers={"idempotency-key": "l"})
        assert first.status_code == 200


@pytest.mark.parametrize("header", [("idempotency-key", "k" * 256), ("x-resumable", "maybe")])
async def test_a_header_that_makes_no_sense_is_400_and_named(header: tuple[str, str]):
    async with in_memory(says()) as client:
        response = await client.post(URL, json=WHOLE, headers=[header])
    assert response.status_code == 400
    assert error_of(response)["param"].lower() == header[0]


async def test_a_request_that_is_refused_uses_up_no_key():
    async with in_memory(says()) as client:
        key = {"idempotency-key": "k"}
        assert (await client.post(URL, json=WHOLE | {"top_p": 9}, headers=key)).status_code == 400
        assert (await client.post(URL, json=WHOLE, headers=key)).status_code == 200


# --- a store in trouble ---


class Moody(MemoryStore):
    """Fails while it is told to."""

    is_well = True

    def __init__(self) -> None:
        super().__init__(1 << 24)

    async def get(self, key: str) -> bytes | None:
        self._look()
        return await super().get(key)

    async def append(self, key: str, value: bytes, *, at: int, seconds: float) -> int:
        self._look()
        return await super().append(key, value, at=at, seconds=seconds)

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, seconds: float) -> bool:
        self._look()
        return await super().swap(key, old, new, seconds=seconds)

    def _look(self) -> None:
        if not self.is_well:
            raise StoreError("away")


async def test_without_a_store_only_those_fail_who_asked_to_come_back():
    store = Moody()
    store.is_well = False
    shared = Archive(SteadyStore(store, GatewayMetrics()), seconds=60)
    async with in_memory(says(), archive=shared) as client:
        for headers in ({}, {"idempotency-key": "k"}):
            assert events_of(await client.post(URL, json=ASK, headers=headers))
        for headers in (RESUMABLE, {"last-event-id": f"{'a' * 32}:1"}):
            refused = await client.post(URL, json=ASK, headers=headers)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "store_unavailable")
            assert 1 <= int(refused.headers["retry-after"]) <= 60


async def test_a_store_lost_in_mid_stream_costs_the_stream_nothing_and_its_return_is_used():
    store, pause = Moody(), asyncio.Event()
    shared = archive(store)
    async with (
        client_of(services_around(says(pauses={5: pause}), archive=shared)) as client,
        client.stream("POST", URL, json=ASK, headers=RESUMABLE) as response,
    ):
        hearing = hear(response)
        heard = [await anext(hearing)]
        store.is_well = False
        await asyncio.sleep(2 * resume_lease.BEAT_SECONDS)
        pause.set()
        heard += [await anext(hearing)]
        store.is_well = True
        heard += [event async for event in hearing]
        assert told(heard).text == "a€😀 zy€b"
        again = events_of(await client.post(URL, json=ASK, headers={"last-event-id": heard[0].id}))
        assert told(heard[:1] + again) == told(heard)


async def test_a_store_that_forgot_everything_gets_the_record_anew():
    store, pause = MemoryStore(1 << 24), asyncio.Event()
    async with (
        client_of(services_around(says(pauses={5: pause}), archive=archive(store))) as client,
        client.stream("POST", URL, json=ASK, headers=RESUMABLE) as response,
    ):
        hearing = hear(response)
        first = await anext(hearing)
        key = key_of(first.id.partition(":")[0])
        await until(lambda: store.num_bytes)
        await store.swap(key, await store.get(key), None, seconds=1)
        pause.set()
        heard = [first, *[event async for event in hearing]]
        await until(lambda: key in store._entries)  # pyright: ignore[reportPrivateUsage]
        again = events_of(await client.post(URL, json=ASK, headers={"last-event-id": first.id}))
    assert told([first, *again]) == told(heard)


async def test_a_writer_s_last_words_reach_whoever_claims_the_answer():
    store, lost = MemoryStore(1 << 20), asyncio.Event()
    one, two = Lease(store, "lease"), Lease(store, "lease")
    assert await one.take()
    written = Entry("a", encode_head(HEAD))
    await store.append("a", written.value, at=0, seconds=60)
    writer = Writer(store, one, record=written, name=None, seconds=60, on_lost=lost.set)
    claiming = asyncio.create_task(two.take())
    writer.add(Token(7))
    assert await claiming
    assert lost.is_set()
    assert Record.decode(await store.get("a") or b"") == Record(HEAD, (Token(7),))


async def test_a_record_that_is_full_ends_there_and_has_no_hole(monkeypatch: pytest.MonkeyPatch):
    store, first = MemoryStore(1 << 20), Token(1, TokenLogprobs(-1.0, (1,) * 20, (-1.0,) * 20))
    monkeypatch.setattr(resume_writer, "MAX_ENTRY_BYTES", len(encode_head(HEAD)) + 60)
    lease, written = Lease(store, "lease"), Entry("a", encode_head(HEAD))
    await lease.take()
    await store.append("a", written.value, at=0, seconds=60)
    writer = Writer(store, lease, record=written, name=None, seconds=60, on_lost=lambda: None)
    for token in (Token(7), first, Token(8)):
        writer.add(token)
    writer.end()
    await writer.task
    assert Record.decode(await store.get("a") or b"") == Record(HEAD, (Token(7),))


# --- leases and records ---


async def test_a_lease_is_free_gone_over_or_waited_for(quick_leases: None):
    store = MemoryStore(1 << 20)
    one, two, three = (Lease(store, "a") for _ in range(3))
    assert await one.take()
    assert await one.beat()
    claims = [asyncio.create_task(two.take())]
    await asyncio.sleep(0.02)
    claims.append(asyncio.create_task(three.take()))
    await asyncio.sleep(0.02)
    assert not await one.beat()
    await one.release()
    assert [await claim for claim in claims] == [False, True]
    waiting = asyncio.create_task(one.await_turn())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await three.release()
    assert await waiting


def test_a_record_is_read_up_to_its_last_whole_part():
    token = Token(7, TokenLogprobs(-1.5, (7, 8), (-1.5, -2.0)), cached_tokens=2)
    raw = encode_head(HEAD) + encode_token(token) + encode_token(Token(8))
    assert Record.decode(raw) == Record(HEAD, (token, Token(8)))
    assert Record.decode(raw[:-1]) == Record(HEAD, (token,))
    for broken in (b"", raw[:9], b"\x03\x00\x00\x00abc"):
        assert Record.decode(broken) is None


def test_an_event_id_is_read_back_as_it_was_written():
    for seen in (0, 17, "finish", "usage"):
        event = EventId("a-_" * 10 + "bb", seen)
        assert EventId.parse(f" {event} ") == event
    for wrong in ("", "a:1", f"{'a' * 32}:01", f"{'a' * 32}:1\n:2", f"{'é' * 32}:1"):
        assert EventId.parse(wrong) is None
