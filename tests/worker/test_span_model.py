"""Spans in a row equal the whole model, for every family that is served."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from shared.swarm import Span
from tests.models import FAMILIES, NUM_BLOCKS, build, save
from worker.kv_cache import Segment, Slab
from worker.span_model import SpanModel
from worker.weights import load_span

torch.set_num_threads(1)  # so small that threads only get in each other's way

WHOLE = Span(0, NUM_BLOCKS)
CHAIN = [Span(0, 2), Span(2, 4), Span(4, 6)]
UNEVEN = [Span(0, 1), Span(1, 5), Span(5, 6)]
LENGTHS = (40, 3, 29)  # longer and shorter than the sliding windows of 24

torch.manual_seed(5)
TOKENS = [torch.randint(3, 200, (n,)) for n in LENGTHS]


class Line:
    """Workers in a row, each with caches of its own for every session."""

    def __init__(self, models: list[SpanModel], spans: list[Span]) -> None:
        self.parts = [
            (model, span, [Slab(64) for _ in LENGTHS])
            for model, span in zip(models, spans, strict=True)
        ]

    def run(self, batch: list[tuple[int, int, int]]) -> list[Tensor]:
        """Logits after each token of (session, start, end) pieces that run together."""
        hidden = torch.cat([TOKENS[i][a:b] for i, a, b in batch])
        for model, span, slabs in self.parts:
            segments = [Segment(slabs[i], a, b - a) for i, a, b in batch]
            hidden = model.run(hidden, segments, span, range(len(hidden)))
        return list(hidden.split([b - a for _, a, b in batch]))


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Tensor]]:
    """A model on disk, and the logits that transformers' own forward gives for TOKENS."""
    model = build(request.param)
    directory = save(model, tmp_path_factory.mktemp("models") / request.param)
    return directory, [reference(model, tokens) for tokens in TOKENS]


@torch.inference_mode()
def reference(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    return model(tokens[None]).logits[0]


def lines(directory: Path) -> dict[str, Line]:
    """The same model as three workers, and as parts of one that hosts all of it."""
    whole = load_span(directory, WHOLE)
    return {
        "whole": Line([whole], [WHOLE]),
        "chain": Line([load_span(directory, span) for span in CHAIN], CHAIN),
        "parts of one": Line([whole] * 3, UNEVEN),
    }


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_every_way_to_cut_model_and_prompt_gives_the_whole_model_s_logits(
    family: tuple[Path, list[Tensor]],
):
    directory, expected = family
    rounds = [
        [(0, 0, 30), (1, 0, 1), (2, 0, 12)],  # prefills of any length together
        [(1, 1, 2), (0, 30, 31)],  # decodes alone, in another order
        [(0, 31, 32), (1, 2, 3), (2, 12, 28)],  # decodes and a chunk
        [(2, 28, 29), (0, 32, 40)],
    ]
    for line in lines(directory).values():
        for batch in rounds:
            for (i, a, b), logits in zip(batch, line.run(batch), strict=True):
                assert_equal(logits, expected[i][a:b])


def test_rewinding_and_running_again_changes_nothing(family: tuple[Path, list[Tensor]]):
    directory, expected = family
    line = lines(directory)["chain"]
    line.run([(0, 0, 40)])
    assert_equal(line.run([(0, 26, 33)])[0], expected[0][26:33])
    assert_equal(line.run([(0, 33, 34)])[0], expected[0][33:34])
    assert_equal(line.run([(0, 0, 40)])[0], expected[0])


def test_caches_that_are_only_filled_hold_what_a_run_leaves_there(
    family: tuple[Path, list[Tensor]],
):
    directory, _ = family
    model = load_span(directory, WHOLE)
    ran, filled = ([Slab(64) for _ in LENGTHS] for _ in range(2))
    for position, end in ((0, 2), (2, 3)):
        inputs = torch.cat([tokens[position:end] for tokens in TOKENS])
        spans = [Segment(slab, position, end - position) for slab in ran]
        model.run(inputs, spans, WHOLE, [])
        model.fill(inputs, [Segment(slab, position, end - position) for slab in filled], WHOLE)
    for slab, other in zip(ran, filled, strict=True):
        for block in range(WHOLE.end):
            assert torch.equal(slab.keys[block][:, :3], other.keys[block][:, :3])
            assert torch.equal(slab.values[block][:, :3], other.values[block][:, :3])


def test_only_the_rows_asked_for_are_unembedded(family: tuple[Path, list[Tensor]]):
    directory, expected = family
    model = load_span(directory, WHOLE)
    out = model.run(TOKENS[1], [Segment(Slab(16), 0, 3)], WHOLE, [2, 0])
    assert_equal(out, expected[1][[2, 0]])
    hidden = model.run(TOKENS[1], [Segment(Slab(16), 0, 3)], WHOLE, [])
    assert hidden.shape == (3, model.hidden_size)


def test_a_span_holds_its_blocks_and_ends_and_nothing_else(family: tuple[Path, list[Tensor]]):
    directory, _ = family
    whole, *parts = [load_span(directory, span) for span in [WHOLE, *CHAIN]]
    norm = whole.hidden_size * 4
    vocabulary = whole.hidden_size * whole.vocab_size * 4
    tables = 1 if whole.config.tie_word_embeddings else 2
    blocks = (num_bytes(whole) - tables * vocabulary - norm) // 3
    assert [num_bytes(part) for part in parts] == [
        blocks + vocabulary + norm,
        blocks + norm,
        blocks + vocabulary + norm,
    ]


def num_bytes(model: SpanModel) -> int:
    return sum(parameter.nbytes for parameter in model._model.parameters())
