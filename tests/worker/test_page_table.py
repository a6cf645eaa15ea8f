"""Every page has the owners it should, in any order of growing, rewinding, sharing, freeing."""

from collections import Counter

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.errors import StepRefused
from shared.swarm import SessionId, Span
from worker.kv_cache import PAGE_TOKENS, KvCache
from worker.page_pool import PagePool, Rows, page_bytes
from worker.page_table import PageTable

LAYOUT = {
    4: (Rows(2, 3, torch.float32), Rows(2, 5, torch.float32)),
    5: (Rows(2, 3, torch.float32), Rows(1, 3, torch.bfloat16)),
}
CPU = torch.device("cpu")
NUM_PAGES = 8
KEYS = [(SessionId(bytes([i]) * 16), Span(4, 6)) for i in range(5)]


def pool(num_pages: int = NUM_PAGES) -> PagePool:
    return PagePool(LAYOUT, num_pages, CPU)


def slots(table: PageTable, end: int) -> list[int]:
    return [int(table.pages[i // PAGE_TOKENS]) * PAGE_TOKENS + i % PAGE_TOKENS for i in range(end)]


def test_a_pool_takes_its_memory_at_once_and_counts_what_is_owned():
    some = pool()
    assert page_bytes(LAYOUT) == some.page_bytes == PAGE_TOKENS * (24 + 40 + 24 + 6)
    held = [*some.keys.values(), *some.values.values()]
    assert sum(t.nbytes for t in held) == NUM_PAGES * some.page_bytes
    assert some.values[4].shape == (NUM_PAGES * PAGE_TOKENS, 2, 5)
    table = PageTable(some)
    table.begin(0, PAGE_TOKENS + 1)
    assert some.num_bytes == 2 * some.page_bytes


def test_a_full_pool_refuses_and_leaves_things_as_they_were():
    some = pool(2)
    table, other = PageTable(some), PageTable(some)
    table.begin(0, 20)
    with pytest.raises(StepRefused, match="1 pages are needed, 0 are free") as refused:
        other.begin(0, 1)
    assert refused.value.reason == "no_pages"
    with pytest.raises(StepRefused):
        table.begin(20, 33)
    assert (len(table.pages), table.length) == (2, 20)
    table.free()
    other.begin(0, 32)


def test_what_is_shared_is_copied_before_it_is_written_and_only_then():
    some = pool()
    table = PageTable(some)
    table.begin(0, 40)
    table.length = 40
    head = table.head(36)
    assert list(head.pages) == list(table.pages)
    some.keys[4][slots(table, 40)] = torch.arange(40.0)[:, None, None].expand(40, 2, 3)
    head.begin(36, 37)
    assert list(head.pages[:2]) == list(table.pages[:2])
    assert head.pages[2] != table.pages[2]
    mine = some.keys[4][slots(head, 37)][:, 0, 0]
    assert mine.tolist() == [*range(36), 0]
    head.begin(32, 33)  # of that page nothing is kept
    assert some.num_free == NUM_PAGES - 4


class Sessions(RuleBasedStateMachine):
    """Random steps of five parts, beside a dict of what each should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool()
        self.cache = KvCache(self.pool)
        self.texts: dict[int, list[float]] = {}
        self.counter = 0.0

    @rule(i=st.integers(0, 4), back=st.integers(0, 40), count=st.integers(1, 40))
    def step(self, i: int, back: int, count: int) -> None:
        position = max(0, self.cache.length(KEYS[i]) - back)
        text = self.texts.setdefault(i, [])
        del text[position:]
        try:
            segment = self.cache.segment(KEYS[i], position, count, pages=99)
        except StepRefused:
            return
        new = [self.counter + n for n in range(count)]
        self.counter += count
        table = segment.cache
        assert isinstance(table, PageTable)
        places = slots(table, segment.end)[position:]
        for tensor in (*self.pool.keys.values(), *self.pool.values.values()):
            tensor[places] = torch.tensor(new, dtype=tensor.dtype)[:, None, None]
        table.length = segment.end
        text += new

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), heir=st.integers(0, 4), tokens=st.integers(0, 100))
    def adopt(self, data: st.DataObject, heir: int, tokens: int) -> None:
        source = data.draw(st.sampled_from(sorted(self.texts)))
        self.cache.copy(KEYS[source], KEYS[heir], tokens, pages=99)
        self.texts[heir] = self.texts[source][:tokens]

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), name=st.integers(0, 4))
    def rename(self, data: st.DataObject, name: int) -> None:
        old = data.draw(st.sampled_from(sorted(self.texts)))
        self.cache.rename(KEYS[old], KEYS[name])
        self.texts[name] = self.texts.pop(old)

    @rule(i=st.integers(0, 4))
    def free(self, i: int) -> None:
        self.cache.free(KEYS[i])
        self.texts.pop(i, None)

    @invariant()
    def every_page_has_as_many_owners_as_tables_and_none_is_lost(self) -> None:
        owners = Counter(int(page) for table in self.tables.values() for page in table.pages)
        free = self.pool._free
        assert len(set(free)) == len(free)
        assert {*owners, *free} == set(range(NUM_PAGES))
        assert not owners.keys() & set(free)
        assert self.pool._owners == [owners[page] for page in range(NUM_PAGES)]
        assert self.cache.num_bytes == len(owners) * self.pool.page_bytes

    @invariant()
    def every_session_reads_what_it_wrote_or_adopted(self) -> None:
        for i, text in self.texts.items():
            assert self.cache.length(KEYS[i]) == len(text)
            if text:
                places = slots(self.tables[i], len(text))
                assert self.pool.keys[4][places][:, 1, 2].tolist() == text
                assert self.pool.values[4][places][:, 0, 4].tolist() == text

    @invariant()
    def what_is_free_is_zero(self) -> None:
        for tensor in (*self.pool.keys.values(), *self.pool.values.values()):
            assert not tensor.unflatten(0, (NUM_PAGES, -1))[self.pool._free].any()

    @property
    def tables(self) -> dict[int, PageTable]:
        caches = {i: self.cache._caches.get(key) for i, key in enumerate(KEYS)}
        return {i: table for i, table in caches.items() if isinstance(table, PageTable)}


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
