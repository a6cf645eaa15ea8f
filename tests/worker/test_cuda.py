"""On a CUDA device spans give what they give on CPU, on pages of its memory."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from shared.model_files import BUNDLED
from shared.swarm import SessionId, Span
from tests.models import NUM_BLOCKS, build, save
from worker.capacity import bytes_per_token, free_bytes, new_cache, pages_that_fit
from worker.kv_cache import PAGE_TOKENS, KvCache
from worker.sampling import gumbel
from worker.settings import Quant
from worker.span_model import SpanModel
from worker.tensors import from_payload, to_device, to_payload
from worker.weights import load_span

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

CUDA = torch.device("cuda")
WHOLE = Span(0, NUM_BLOCKS)
LENGTHS = (3, 17, 40, 64, 5, 33, 80, 1)


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma2", "gemma3_text"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build(request.param), tmp_path_factory.mktemp("cuda") / request.param)


def key(session: int) -> tuple[SessionId, Span]:
    return SessionId(bytes([session]) * 16), WHOLE


def text(session: int) -> Tensor:
    generator = torch.Generator().manual_seed(session)
    return torch.randint(3, 200, (LENGTHS[session] + 4,), generator=generator)


def run(model: SpanModel, cache: KvCache, pieces: list[tuple[int, int, int]]) -> Tensor:
    """Logits after each token of (session, start, end) pieces that run together, on the host."""
    segments = [cache.segment(key(i), a, b - a, pages=8) for i, a, b in pieces]
    tokens = torch.cat([text(i)[a:b] for i, a, b in pieces])
    out = model.run(tokens, segments, model.span, range(len(tokens)))
    for segment in segments:
        segment.cache.length = segment.end
    return out.float().cpu()


def rounds(sessions: list[int]) -> list[list[tuple[int, int, int]]]:
    """Prefills, decodes, guesses."""
    ends = [(i, LENGTHS[i]) for i in sessions]
    return [
        [(i, 0, end) for i, end in ends],
        [(i, end, end + 1) for i, end in ends],
        [(i, end + 1, end + 4) for i, end in ends],
    ]


def test_bfloat16_on_the_device_is_near_float32_on_cpu(directory: Path):
    on_cpu = load_span(directory, WHOLE, dtype=torch.float32)
    on_device = load_span(directory, WHOLE, dtype=torch.bfloat16, device=CUDA)
    host, device = KvCache(), new_cache(on_device, 64)
    for pieces in rounds([0, 2, 5]):
        expected, found = run(on_cpu, host, pieces), run(on_device, device, pieces)
        assert (found - expected).norm() < 0.05 * expected.norm()


def test_float32_on_the_device_equals_float32_on_cpu(directory: Path):
    on_cpu, on_device = load_span(directory, WHOLE), load_span(directory, WHOLE, device=CUDA)
    host, device = KvCache(), new_cache(on_device, 64)
    for pieces in rounds([0, 2, 5]):
        expected, found = run(on_cpu, host, pieces), run(on_device, device, pieces)
        assert torch.allclose(found, expected, atol=1e-3, rtol=1e-3)


def test_eight_sessions_together_equal_each_alone(directory: Path):
    model = load_span(directory, WHOLE, device=CUDA)
    everybody = list(range(len(LENGTHS)))
    together, alone = new_cache(model, 64), new_cache(model, 64)
    for number, pieces in enumerate(rounds(everybody)):
        found = run(model, together, pieces)
        expected = [run(model, alone, rounds([i])[number]) for i in everybody]
        assert torch.allclose(found, torch.cat(expected), atol=1e-3, rtol=1e-3)


def test_a_decode_step_does_not_wait_for_the_device(directory: Path):
    model = load_span(directory, WHOLE, dtype=torch.bfloat16, device=CUDA)
    cache = new_cache(model, 64)
    first, second, _ = rounds([0, 1, 2])
    run(model, cache, first)
    segments = [cache.segment(key(i), a, b - a, pages=8) for i, a, b in second]
    tokens = torch.cat([text(i)[a:b] for i, a, b in second])
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.run(tokens, segments, WHOLE, [0, 1, 2])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_pages_are_offered_taken_and_given_back(directory: Path):
    model = load_span(directory, WHOLE, device=CUDA)
    free = free_bytes(model.device)
    assert 0 < pages_that_fit(model, 0) * PAGE_TOKENS * bytes_per_token(model) < free
    cache = new_cache(model, 64)
    run(model, cache, rounds([0, 2])[0])
    cache.copy(key(2), key(3), 40, pages=8)
    cache.rename(key(2), key(4))
    assert cache.num_bytes > 0
    for session in (0, 3, 4):
        cache.free(key(session))
    assert cache.num_bytes == 0


@pytest.mark.parametrize("quant", ["int8", "nf4"])
def test_quantized_weights_load_and_answer(quant: Quant):
    span = Span(0, 8)
    plain = load_span(BUNDLED, span, dtype=torch.bfloat16, device=CUDA)
    model = load_span(BUNDLED, span, dtype=torch.bfloat16, device=CUDA, quant=quant)
    assert model.weight_bytes < plain.weight_bytes
    pieces = rounds([1, 2])[0]
    expected, found = (run(m, new_cache(m, 64), pieces) for m in (plain, model))
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > 0.8


def test_tensors_come_off_the_device_as_they_went_on():
    rows = torch.randn(5, 64).bfloat16()
    payload = to_payload(to_device(rows, CUDA))
    assert torch.equal(from_payload(memoryview(payload), "bfloat16", (5, 64)), rows)


def test_noise_is_the_same_on_every_device():
    seeds, positions = torch.tensor([1, -5]), torch.tensor([7, 900])
    ids = torch.arange(512).reshape(2, 256)
    on_device = gumbel(seeds.to(CUDA), positions.to(CUDA), ids.to(CUDA))
    assert torch.allclose(on_device.cpu(), gumbel(seeds, positions, ids), rtol=1e-12, atol=0)
