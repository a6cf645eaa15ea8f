"""Caches grow with their sessions and keep what was written."""

import torch

from shared.swarm import SessionId, Span
from worker.kv_cache import PAGE_TOKENS, KvCache, Segment, Slab, position_ids
from worker.page_pool import PagePool, Rows
from worker.page_table import PageTable
from worker.parts import PartKey

KEY = (SessionId(bytes(16)), Span(0, 2))
OTHER_PART = (SessionId(bytes(16)), Span(2, 4))


def rows(*values: float) -> torch.Tensor:
    """[2 kv heads, len(values), 3]."""
    return torch.tensor(values, dtype=torch.float32)[None, :, None].expand(2, -1, 3)


def kept(slab: Slab, block: int, length: int) -> list[float]:
    return slab.keys[block][0, :length, 0].tolist()


def slab_of(cache: KvCache, key: PartKey = KEY, *, pages: int) -> Slab:
    slab = cache.segment(key, 0, 1, pages).cache
    assert isinstance(slab, Slab)
    return slab


def test_a_slab_has_room_for_its_pages_and_takes_memory_when_written():
    cache = KvCache()
    slab = slab_of(cache, pages=2)
    assert (slab.capacity, slab.num_bytes) == (2 * PAGE_TOKENS, 0)
    slab.write(0, 0, rows(1), rows(2))
    floats = 2 * slab.capacity * 3
    assert slab.num_bytes == cache.num_bytes == 2 * floats * 4


def test_rows_are_written_where_they_belong_block_by_block():
    slab = slab_of(KvCache(), pages=1)
    slab.write(0, 0, rows(1, 2, 3), rows(4, 5, 6))
    slab.write(0, 1, rows(8), rows(9))
    slab.write(1, 0, rows(7), rows(7))
    assert kept(slab, 0, 3) == [1, 8, 3]
    assert slab.values[0][1, :3, 2].tolist() == [4, 9, 6]
    assert kept(slab, 1, 1) == [7]


def test_a_growing_slab_keeps_what_comes_before_the_write():
    cache = KvCache()
    slab_of(cache, pages=1).write(0, 0, rows(*range(16)), rows(*range(16)))
    slab = slab_of(cache, pages=3)
    slab.write(0, 10, rows(*range(50, 60)), rows(*range(50, 60)))
    assert kept(slab, 0, 20) == [*range(10), *range(50, 60)]
    assert slab.keys[0].shape[1] == 3 * PAGE_TOKENS


def test_a_slab_never_shrinks():
    cache = KvCache()
    assert slab_of(cache, pages=3) is slab_of(cache, pages=1)
    assert slab_of(cache, pages=1).capacity == 3 * PAGE_TOKENS


def test_parts_of_one_session_are_apart_and_freed_apart():
    cache = KvCache()
    slab_of(cache, pages=1).length = 3
    slab_of(cache, OTHER_PART, pages=1).length = 5
    assert (cache.length(KEY), cache.length(OTHER_PART)) == (3, 5)
    cache.free(KEY)
    cache.free(KEY)
    assert (cache.length(KEY), cache.length(OTHER_PART)) == (0, 5)


def test_with_a_pool_caches_are_tables_that_share_what_they_copy():
    rows_of_all = Rows(2, 3, torch.float32)
    cache = KvCache(PagePool({0: (rows_of_all, rows_of_all)}, 4, torch.device("cpu")))
    segment = cache.segment(KEY, 0, 20, pages=3)
    assert isinstance(segment.cache, PageTable)
    segment.cache.length = segment.end
    page = cache.num_bytes // 2
    cache.copy(KEY, OTHER_PART, 18, pages=2)
    assert (cache.length(OTHER_PART), cache.num_bytes) == (18, 2 * page)
    cache.segment(OTHER_PART, 18, 1, pages=2)
    assert cache.num_bytes == 3 * page
    cache.rename(OTHER_PART, (SessionId(b"kept"), Span(2, 4)))
    assert cache.num_parts == 1
    cache.free(KEY)
    assert (cache.num_bytes, cache.num_parts) == (2 * page, 0)
    cache.free((SessionId(b"kept"), Span(2, 4)))
    assert cache.num_bytes == 0


def test_every_token_of_a_batch_has_its_session_s_position():
    segments = [Segment(Slab(16), 3, 2), Segment(Slab(16), 0, 3)]
    assert position_ids(segments, torch.device("cpu")).tolist() == [[3, 4, 0, 1, 2]]
    assert segments[0].end == 5
