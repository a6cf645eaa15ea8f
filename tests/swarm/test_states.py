"""What a swarm says of a text is what the whole model computes of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gateway.reader import Rows
from shared.errors import StepRefused
from shared.wire.messages import Reading
from tests.inprocess import InProcessSwarm, swarm
from worker.engine import Engine
from worker.work import Work

SPANS = ["0:2", "2:4", "4:6"]
TEXT = tuple((7 * i) % 300 + 10 for i in range(150))
ALL = tuple(range(150))
SOME = (3, 70, 71, 140)
BLOCKS = (0, 1, 2, 3, 4, 5, 6)
CUTS = [
    {"chunk_tokens": 40},
    {"chunk_tokens": 64, "max_step_tokens": 50},
]


def tensor_of(rows: Rows) -> Tensor:
    """The rows as numbers."""
    assert rows.dtype == "float32"
    data = bytearray(b"".join(rows.parts))
    return torch.frombuffer(data, dtype=torch.float32).view(rows.count, rows.width)


@torch.inference_mode()
def states_of(model: PreTrainedModel, text: Sequence[int] = TEXT) -> list[Tensor]:
    """As transformers has them: what each block is given, and what the final norm puts out."""
    out = model(torch.tensor([text]), output_hidden_states=True)
    return [states[0] for states in out.hidden_states]


@torch.inference_mode()
def logits_of(model: PreTrainedModel) -> Tensor:
    return model(torch.tensor([TEXT])).logits[0]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


async def read(s: InProcessSwarm, kind: str = "states", positions: tuple[int, ...] = ALL, **more):
    return await s.generator.read(TEXT, Reading(kind, positions, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", CUTS, ids=str)
async def test_what_is_read_is_what_the_whole_model_computes_however_the_text_is_cut(
    sizes: dict[str, int], model: PreTrainedModel, directory: Path
):
    expected = states_of(model)
    async with swarm(directory, SPANS, **sizes) as s:
        everything = await read(s, blocks=BLOCKS)
        some = await read(s, positions=SOME, blocks=(2, 5))
        (logits,) = (await read(s, "logits", SOME)).values()
        (whole,) = (await read(s, "mean", ALL[-1:])).values()
        (short,) = (await read(s, "mean", ALL[-1:], dimensions=10)).values()
    assert list(everything) == list(BLOCKS)
    for block, rows in everything.items():
        close(tensor_of(rows), expected[block])
    for block, rows in some.items():
        close(tensor_of(rows), expected[block][list(SOME)])
    close(tensor_of(logits), logits_of(model)[list(SOME)])
    mean = expected[-1].double().mean(0)
    close(tensor_of(whole)[0], (mean / mean.norm()).float())
    close(tensor_of(short)[0], (mean[:10] / mean[:10].norm()).float())


async def test_only_the_blocks_and_positions_that_matter_run(directory: Path):
    async with swarm(directory, SPANS) as s:
        await read(s, positions=(9,), blocks=(1,))
        assert s.take_counts() == [10, 0, 0]
        await read(s, positions=(9,), blocks=(0,))
        assert s.take_counts() == [10, 0, 0]
        await read(s, positions=(9,), blocks=(2, 3))
        assert s.take_counts() == [10, 10, 0]


async def test_a_text_is_read_in_full_even_if_workers_still_have_it(
    model: PreTrainedModel, directory: Path
):
    async with swarm(directory, SPANS) as s:
        await s.greedy(TEXT, 2)
        s.take_counts()
        await read(s, blocks=(6,))
        assert s.take_counts() == [150] * 3


async def test_what_streams_beside_it_is_not_disturbed(model: PreTrainedModel, directory: Path):
    async with swarm(directory, SPANS, chunk_tokens=16) as s:
        alone = await s.greedy(TEXT[:20], 24)
        beside, states, logits, mean = await asyncio.gather(
            s.greedy(TEXT[:20], 24),
            read(s, blocks=BLOCKS),
            read(s, "logits", SOME),
            read(s, "mean", ALL[-1:]),
        )
    assert beside == alone
    for block, rows in states.items():
        close(tensor_of(rows), states_of(model)[block])
    close(tensor_of(logits[6]), logits_of(model)[list(SOME)])
    assert mean[6].count == 1


@pytest.mark.parametrize("span", [0, 1, 2])
async def test_a_worker_lost_in_the_middle_costs_no_byte(span: int, directory: Path):
    asked = (
        Reading("states", ALL, BLOCKS),
        Reading("logits", ALL),
        Reading("mean", ALL[-1:]),
    )
    async with swarm(directory, [*SPANS, SPANS[span]], chunk_tokens=32) as s:
        undisturbed = [bytes_of(await s.generator.read(TEXT, one)) for one in asked]
    async with swarm(directory, [*SPANS, *[SPANS[span]] * 3], chunk_tokens=32) as s:
        for one, expected in zip(asked, undisturbed, strict=True):
            failed: list[Work] = []
            for engine in s.engines:
                fail_once(engine, SPANS[span], failed)
            assert bytes_of(await s.generator.read(TEXT, one)) == expected
            assert failed


def bytes_of(read: dict[int, Rows]) -> dict[int, bytes]:
    return {block: b"".join(rows.parts) for block, rows in read.items()}


def fail_once(engine: Engine, span: str, failed: list[Work]) -> None:
    """Refuse the step in the middle of the text, unless another has."""
    submit = engine.submit

    def submit_or_fail(work: Work) -> None:
        if work.position == 64 and str(work.key[1]) == span and not failed:
            failed.append(work)
            work.on_failed(StepRefused("engine_failed", "as told"))
        else:
            submit(work)

    engine.submit = submit_or_fail
