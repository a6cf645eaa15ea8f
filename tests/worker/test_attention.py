"""Many sessions in one call attend as each would alone, by the textbook's formula."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from worker.attention import attention, batch_of, reach_of
from worker.kv_cache import Segment, Slab

torch.set_num_threads(1)  # so small that threads only get in each other's way

HEADS, KV_HEADS, WIDTH = 4, 2, 8


def block(kind: str = "full_attention", *, index: int = 0) -> Any:
    """What attention reads off a transformers module."""
    config = SimpleNamespace(layer_types=[kind] * 3, sliding_window=4, attention_chunk_size=4)
    return SimpleNamespace(layer_idx=index, config=config)


def textbook(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, softcap: float | None, sinks: Any
) -> Tensor:
    """One session whole: [heads, tokens, width] in, [tokens, heads, width] out."""
    key, value = (t.repeat_interleave(HEADS // KV_HEADS, 0) for t in (key, value))
    scores = query @ key.transpose(-1, -2) * WIDTH**-0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(-1, scores.shape[1], 1)], -1)
    weights = scores.softmax(-1)[..., : key.shape[1]]
    return (weights @ value).transpose(0, 1)


def seen_by(kind: str, count: int) -> Tensor:
    query, key = torch.arange(count)[:, None], torch.arange(count)[None]
    causal = key <= query
    match kind:
        case "sliding_attention":
            return causal & (query - key < 4)
        case "chunked_attention":
            return causal & (query // 4 == key // 4)
        case _:
            return causal


@pytest.mark.parametrize("sinks", [False, True], ids=["", "sinks"])
@pytest.mark.parametrize("softcap", [None, 2.0], ids=["", "capped"])
@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention", "chunked_attention"])
def test_steps_of_any_size_side_by_side_equal_each_session_whole(
    kind: str, softcap: float | None, sinks: bool
):
    torch.manual_seed(1)
    lengths = (11, 7, 3)
    q = [torch.randn(HEADS, n, WIDTH) for n in lengths]
    k, v = ([torch.randn(KV_HEADS, n, WIDTH) for n in lengths] for _ in range(2))
    s_aux = torch.randn(HEADS) if sinks else None
    slabs = [Slab(16) for _ in lengths]
    rounds = [[(0, 5), (0, 7), (0, 1)], [(5, 10), None, (1, 2)], [(10, 11), None, (2, 3)]]
    out: list[list[Tensor]] = [[] for _ in lengths]
    for parts in rounds:
        live = [(i, *part) for i, part in enumerate(parts) if part]
        segments = [Segment(slabs[i], a, b - a) for i, a, b in live]
        with batch_of(segments):
            joined, _ = attention(
                block(kind),
                *(torch.cat([t[i][:, a:b] for i, a, b in live], 1)[None] for t in (q, k, v)),
                None,
                scaling=WIDTH**-0.5,
                softcap=softcap,
                s_aux=s_aux,
            )
        for (i, _, _), piece in zip(
            live, joined[0].split([s.count for s in segments]), strict=True
        ):
            out[i].append(piece)
    for i, n in enumerate(lengths):
        expected = textbook(q[i], k[i], v[i], seen_by(kind, n), softcap, s_aux)
        assert torch.allclose(torch.cat(out[i]), expected, atol=1e-5)


def test_a_block_reaches_as_far_as_its_kind_says():
    assert reach_of(block("full_attention"), 9) == (None, None)
    assert reach_of(block("sliding_attention"), None) == (4, None)
    assert reach_of(block("chunked_attention"), None) == (None, 4)


def test_without_kinds_the_model_s_window_holds_for_all():
    bare: Any = SimpleNamespace(layer_idx=0, config=SimpleNamespace(sliding_window=6))
    assert reach_of(bare, None) == (6, None)
    assert reach_of(bare, 5) == (5, None)
    nothing: Any = SimpleNamespace(layer_idx=0, config=SimpleNamespace())
    assert reach_of(nothing, None) == (None, None)
