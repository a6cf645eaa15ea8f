"""One call attends many sessions, however they differ, and nothing waits for the device."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shared.swarm import SessionId, Span
from worker.capacity import layout_of
from worker.kv_cache import KvCache, Segment, Slab
from worker.page_pool import PagePool
from worker.paged_attention import alike
from worker.selftest import random_model
from worker.shrink import NUM_BLOCKS, tiny_config
from worker.span_model import SpanModel

torch.set_num_threads(1)  # so small that threads only get in each other's way

WHOLE = Span(0, NUM_BLOCKS)
WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique"}


class Calls(TorchDispatchMode):
    """Counts the operations that are given to torch."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **kwargs or {})


def segment(position: int, count: int = 1) -> Segment:
    return Segment(Slab(0), position, count)


def test_short_steps_of_caches_alike_in_length_go_together():
    assert alike([segment(0), segment(1000), segment(30, 16)]) == [[0, 1, 2]]
    assert alike([segment(30), segment(30, 17), segment(5), segment(0, 400)]) == [[0, 2], [1], [3]]
    assert alike([segment(5000), segment(5), segment(2000), segment(4100)]) == [[0, 3], [1], [2]]


def test_what_one_call_copies_is_bounded():
    assert list(map(len, alike([segment(1000)] * 150))) == [64, 64, 22]
    assert list(map(len, alike([segment(30_000)] * 5))) == [2, 2, 1]
    assert list(map(len, alike([segment(200_000)] * 2))) == [1, 1]


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma2", "gpt_oss", "bloom"])
def model(request: pytest.FixtureRequest) -> SpanModel:
    config = tiny_config(request.param)
    config.update({"use_cache": False})
    torch.manual_seed(0)
    return SpanModel(random_model(config), WHOLE)


def calls(model: SpanModel, num_sessions: int) -> Counter[str]:
    """Operations of the second of two decode steps."""
    cache = KvCache(PagePool(layout_of(model), 3 * num_sessions, torch.device("cpu")))
    keys = [(SessionId(bytes([i]) * 16), WHOLE) for i in range(num_sessions)]
    counted = Calls()
    for position in (0, 1):
        segments = [cache.segment(key, position, 1, pages=1) for key in keys]
        with counted:
            model.run(torch.arange(num_sessions), segments, WHOLE, [0])
        if position == 0:
            counted.counts.clear()
    return counted.counts


def test_a_batch_takes_as_many_kernels_as_two_sessions(model: SpanModel):
    few, many = calls(model, 2), calls(model, 12)
    del few["arange"], many["arange"]  # every session's positions are listed by the host
    assert many == few


def test_no_step_waits_for_the_device(model: SpanModel):
    assert not WAITS & calls(model, 3).keys()
