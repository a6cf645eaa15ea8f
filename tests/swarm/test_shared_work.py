"""Work that is not done twice, and work that is guessed, never changes a token."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from shared.errors import NoRoute
from shared.swarm import Span
from shared.wire.messages import Sampling
from tests.inprocess import swarm

SPANS = ["0:2", "2:4", "4:6"]
PROMPT = [(7 * i) % 300 + 10 for i in range(150)]


def expected(model: PreTrainedModel, prompt: Sequence[int], tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
    )
    return out[0, len(prompt) :].tolist()


async def test_a_text_that_begins_like_another_runs_only_from_where_it_differs(
    model: PreTrainedModel, directory: Path
):
    async with swarm(directory, SPANS) as s:
        first = await s.greedy(PROMPT, 8)
        assert first == expected(model, PROMPT, 8)
        assert s.take_counts() == [157] * 3
        longer = PROMPT + first + [33, 44]
        assert await s.greedy(longer, 4) == expected(model, longer, 4)
        assert s.take_counts() == [160 - 128 + 3] * 3  # two pages of 64 were kept


async def test_the_first_token_tells_how_much_of_the_prompt_was_cached(directory: Path):
    async with swarm(directory, SPANS) as s:

        async def cached(tenant: str) -> list[int]:
            return [token.cached_tokens for token in await s.tokens(PROMPT, 3, tenant=tenant)]

        assert await cached("ann") == [0, 0, 0]
        assert await cached("ann") == [128, 0, 0]
        assert await cached("bob") == [0, 0, 0]


async def test_two_tenants_never_share(model: PreTrainedModel, directory: Path):
    async with swarm(directory, SPANS) as s:
        await s.greedy(PROMPT, 2, tenant="ann")
        s.take_counts()
        assert await s.greedy(PROMPT, 2, tenant="bob") == expected(model, PROMPT, 2)
        assert s.take_counts() == [151] * 3
        await s.greedy(PROMPT, 2, tenant="ann")
        assert s.take_counts() == [151 - 128] * 3


async def test_a_worker_that_lost_its_pages_is_refilled_and_the_tokens_are_the_same(
    model: PreTrainedModel, directory: Path
):
    async with swarm(directory, SPANS) as s:
        await s.greedy(PROMPT, 2)
        middle = s.servers[1].sessions
        async with asyncio.timeout(2):
            while not middle.prefixes.pages:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        s.engines[1].free([kept.key for kept in middle.prefixes.evict(1 << 20)])
        s.take_counts()
        assert await s.greedy(PROMPT, 2) == expected(model, PROMPT, 2)
        assert s.take_counts()[1] >= 151


async def test_pages_are_taken_back_from_kept_caches_when_a_session_needs_them(
    model: PreTrainedModel, directory: Path
):
    async with swarm(directory, ["0:6"], kv_tokens=256) as s:
        for start in (1, 2, 3, 4):  # each takes more than half of all pages
            prompt = [start, *PROMPT]
            assert await s.greedy(prompt, 2) == expected(model, prompt, 2)
        sessions = s.servers[0].sessions
        assert sessions.pages_available <= sessions.pages_total


@pytest.mark.parametrize("guess_tokens", [1, 4])
async def test_guesses_change_no_token(guess_tokens: int, model: PreTrainedModel, directory: Path):
    truth = expected(model, PROMPT[:20], 40)
    prompt = PROMPT[:20] + truth[:30] + PROMPT[:20]  # the model is led over the same ground
    async with swarm(directory, SPANS, guess_tokens=guess_tokens) as s:
        assert await s.greedy(prompt, 40) == expected(model, prompt, 40)


async def test_guesses_and_how_many_were_right_are_counted(directory: Path):
    always_5 = Sampling(temperature=0, logit_bias=((5, 100.0),))
    async with swarm(directory, SPANS, guess_tokens=4) as s:
        made = s.generator.generate(
            (7, 9, 5, 8, 8, 7, 9),  # what is said next was followed by an 8 before
            sampling=always_5,
            max_tokens=20,
            stop_ids=frozenset(),
        )
        assert [token.token_id async for token in made] == [5] * 20
        tokens, guessed, right = (
            s.metrics.registry.get_sample_value(f"brigade_gateway_{name}_total") or 0
            for name in ("tokens", "guessed_tokens", "guessed_right_tokens")
        )
    assert tokens == 20
    assert guessed > right > 0


async def test_a_long_prompt_in_one_step_runs_in_pieces(model: PreTrainedModel, directory: Path):
    async with swarm(directory, SPANS, max_step_tokens=32) as s:
        assert await s.greedy(PROMPT, 5) == expected(model, PROMPT, 5)


async def test_workers_that_are_not_trusted_see_no_tokens(model: PreTrainedModel, directory: Path):
    spans = ["0:6", "0:2", "2:4", "4:6"]
    async with swarm(directory, spans, trusted=[1, 3], has_standbys=True) as s:
        assert await s.greedy(PROMPT, 8) == expected(model, PROMPT, 8)
        assert (s.engines[1].num_tokens, s.engines[3].num_tokens) == (157, 157)
        assert s.engines[0].spans <= {Span(2, 4)}
    async with swarm(directory, spans, trusted=[1]) as s:
        with pytest.raises(NoRoute, match="no trusted worker serves block 5 of"):
            await s.greedy(PROMPT, 8)
