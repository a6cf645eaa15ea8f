"""Sessions on pages get the numbers that sessions on slabs get, in every kind of attention."""

from typing import Any

import pytest
import torch
from torch import Tensor

from shared.swarm import SessionId, Span
from worker.capacity import layout_of
from worker.kv_cache import PAGE_TOKENS, KvCache
from worker.page_pool import PagePool
from worker.selftest import random_model
from worker.shrink import NUM_BLOCKS, tiny_config
from worker.span_model import SpanModel

WHOLE = Span(0, NUM_BLOCKS)
NUM_PAGES = 40
# groups, single heads, windows, chunks, caps, sinks, ALiBi, keys wider than values
FAMILIES: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("llama", "gpt2", "qwen3_moe", "mistral", "gemma2", "gemma3_text")},
    **{name: {} for name in ("llama4_text", "gpt_oss", "bloom", "deepseek_v3", "gpt_bigcode")},
    "falcon": {"alibi": True, "new_decoder_architecture": True, "num_kv_heads": 2},
}

Piece = tuple[int, int, int]
"""(session, start, end): these tokens of that session."""


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from more, and neighbours lose."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> SpanModel:
    config = tiny_config(request.param)
    config.update(FAMILIES[request.param])
    torch.manual_seed(0)
    return SpanModel(random_model(config), WHOLE)


@pytest.fixture
def both(model: SpanModel) -> list["Worker"]:
    pool = PagePool(layout_of(model), NUM_PAGES, torch.device("cpu"))
    return [Worker(model, KvCache()), Worker(model, KvCache(pool))]


class Worker:
    """Runs pieces of fixed texts, one a session."""

    def __init__(self, model: SpanModel, cache: KvCache) -> None:
        self.cache = cache
        self.model = model

    def run(self, *pieces: Piece) -> Tensor:
        """Logits after each token of pieces that run together."""
        tokens = torch.cat([text(i)[a:b] for i, a, b in pieces])
        segments = [self.cache.segment(key(i), a, b - a, pages(b)) for i, a, b in pieces]
        out = self.model.run(tokens, segments, WHOLE, range(len(tokens)))
        for segment in segments:
            segment.cache.length = segment.end
        return out

    def adopt(self, source: int, target: int, tokens: int) -> None:
        self.cache.copy(key(source), key(target), tokens, pages(tokens))


def text(session: int) -> Tensor:
    """Those of even and of odd sessions begin alike."""
    generator = torch.Generator().manual_seed(session % 2)
    tokens = torch.randint(3, 150, (120,), generator=generator)
    tokens[70 + session :] = torch.randint(3, 150, (50 - session,), generator=generator)
    return tokens


def key(session: int) -> tuple[SessionId, Span]:
    return SessionId(bytes([session]) * 16), WHOLE


def pages(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS)


def agree(both: list[Worker], *rounds: list[Piece]) -> None:
    for pieces in rounds:
        slabs, paged = (worker.run(*pieces) for worker in both)
        assert torch.allclose(paged, slabs, atol=1e-4, rtol=1e-4)


def test_prefills_decodes_and_guesses_of_any_length_share_a_batch(both: list[Worker]):
    agree(
        both,
        [(0, 0, 30), (1, 0, 1), (2, 0, 5), (3, 0, 17)],
        [(1, 1, 2), (0, 30, 31), (2, 5, 6)],
        [(0, 31, 32), (1, 2, 7), (2, 6, 60), (3, 17, 18)],
        [(2, 60, 61), (0, 32, 49), (3, 18, 34), (1, 7, 8)],
        [(0, 49, 50), (1, 8, 12)],
    )


def test_one_session_grows_over_many_pages(both: list[Worker]):
    agree(both, [(0, 0, 15)], *([(0, at, at + 1)] for at in range(15, 50)), [(0, 50, 120)])


def test_rewinding_and_going_on_changes_nothing(both: list[Worker]):
    agree(both, [(0, 0, 60), (1, 0, 9)], [(0, 16, 20), (1, 8, 9)], [(0, 18, 40)], [(0, 0, 3)])


def test_those_who_adopt_a_beginning_go_their_own_way(both: list[Worker]):
    agree(both, [(0, 0, 80)])
    for worker in both:
        worker.adopt(0, 2, 64)
        worker.adopt(0, 4, 70)
    agree(
        both,
        [(2, 64, 80), (4, 70, 71), (0, 80, 81)],
        [(4, 71, 75), (2, 80, 81), (0, 81, 82)],
        [(2, 40, 41), (4, 75, 76), (0, 50, 55)],  # into what they share
        [(4, 76, 77), (2, 41, 42), (0, 55, 56)],
    )


def test_nothing_of_a_freed_session_reaches_the_next(both: list[Worker]):
    _, paged = both
    agree(both, [(0, 0, 33), (1, 0, 20)])
    pool = paged.cache._pool
    assert pool is not None
    for tensor in (*pool.keys.values(), *pool.values.values()):
        tensor[tensor.flatten(1).any(1)] = torch.nan
    for worker in both:
        worker.cache.free(key(0))
        worker.cache.free(key(1))
    agree(both, [(2, 0, 18), (3, 0, 5)], [(2, 18, 19), (3, 5, 6)])


def test_blocks_of_one_reach_share_what_says_where_to_read(
    both: list[Worker], monkeypatch: pytest.MonkeyPatch
):
    made: list[Any] = []
    monkeypatch.setattr("worker.paged_attention.View", counted("View", made))
    monkeypatch.setattr("worker.paged_view.hidden", counted("hidden", made, "worker.scores"))
    _, paged = both
    paged.run((0, 0, 5), (1, 0, 3))
    reaches = {"sliding_attention", "chunked_attention", "full_attention"}
    kinds = reaches & set(getattr(paged.model.config, "layer_types", None) or ["full_attention"])
    assert made.count("View") <= max(1, len(kinds))
    assert made.count("hidden") <= max(1, len(kinds))


def counted(name: str, made: list[Any], module: str = "worker.paged_view") -> Any:
    """What is called `name`, noting each call."""
    original = getattr(__import__(module, fromlist=[name]), name)

    def call(*args: Any) -> Any:
        made.append(name)
        return original(*args)

    return call
