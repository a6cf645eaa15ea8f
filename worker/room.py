"""How many of a model's blocks this machine has room for, found out by loading one of them."""

import gc
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError
from shared.model_files import hub_model, locate
from shared.pace import BATCHES
from shared.swarm import ModelSpec, Span
from worker.capacity import (
    bytes_per_token,
    choose_device,
    choose_dtype,
    free_bytes,
    new_cache,
    use_threads,
)
from worker.fetch import fetch_span
from worker.kv_cache import PAGE_TOKENS
from worker.measuring import measure_pace
from worker.progress import shown
from worker.saying import say
from worker.settings import WorkerSettings
from worker.span_model import SpanModel
from worker.weights import load_span

SHARE = 0.8
"""Part of the free memory that weights and cache may take: the rest is everybody else's."""
TOKENS = 16384
"""Tokens of cache there should be room for, unless the operator says how many."""
CACHE_HEADROOM = 2
"""The cache takes a part of what weights leave (see worker/capacity.py)."""


@dataclass(frozen=True)
class Room:
    """What a machine has to offer: `num_blocks` at `speed` block-tokens a second."""

    num_blocks: int
    speed: float


def room_for(
    *, free: int, block_bytes: int, end_bytes: int, token_bytes: int, tokens: int, num_blocks: int
) -> int:
    """How many blocks fit. `end_bytes` is what the model's first or last block has beyond others.

    Raises ConfigError when not even one does.
    """
    each = block_bytes + CACHE_HEADROOM * token_bytes * tokens
    usable = int(free * SHARE)
    if num_blocks * each + 2 * end_bytes <= usable:
        return num_blocks
    fitting = (usable - end_bytes) // each
    if fitting < 1:
        raise ConfigError(
            f"a block needs {block_bytes / 1e6:.1f} MB and {tokens} tokens of its cache "
            f"{CACHE_HEADROOM * token_bytes * tokens / 1e6:.1f} MB, an end of the model "
            f"{end_bytes / 1e6:.1f} MB; of {free / 1e6:.1f} MB free {usable / 1e6:.1f} may be "
            "taken: choose a smaller model, --quant nf4 or fewer --kv-tokens"
        )
    return min(fitting, num_blocks - 1)


def measure_room(settings: WorkerSettings, spec: ModelSpec, wanted: int) -> Room:
    """Load a block near `wanted`, measure it, let go of it. Raises ConfigError or ModelError."""
    use_threads(settings.threads)
    device = choose_device(settings.device)
    free = free_bytes(device)
    block = min(max(wanted, 1), max(spec.num_blocks - 2, 0))  # not an end, if there are others
    say(f"loading block {block} of {spec.name} to see how many fit and how fast they are")
    model = _load_one(settings, spec, Span(block, block + 1))
    token_bytes = bytes_per_token(model)
    tokens = settings.kv_tokens or min(TOKENS, spec.max_positions)
    pages = max(1, min(tokens, BATCHES[-1] * PAGE_TOKENS) // PAGE_TOKENS)
    pace = measure_pace(model, new_cache(model, pages), pages)
    end_bytes = 0
    if spec.num_blocks > 2:
        end_bytes = spec.vocab_size * spec.hidden_size * model.weight_itemsize
    num_blocks = room_for(
        free=free,
        block_bytes=model.weight_bytes,
        end_bytes=end_bytes,
        token_bytes=token_bytes,
        tokens=tokens,
        num_blocks=spec.num_blocks,
    )
    speed = BATCHES[-1] / pace.decode[-1]
    say(
        f"a block takes {model.weight_bytes / 1e6:.1f} MB and {token_bytes} bytes of cache a token;"
        f" of {free / 1e9:.1f} GB free, {num_blocks} blocks fit beside {tokens} tokens; "
        f"{speed:.0f} block-tokens a second"
    )
    if settings.max_blocks:
        num_blocks = min(num_blocks, settings.max_blocks)
    del model
    gc.collect()
    return Room(num_blocks, speed)


def _load_one(settings: WorkerSettings, spec: ModelSpec, span: Span) -> SpanModel:
    directory: Path = locate(settings.model)
    device = choose_device(settings.device)
    if on_hub := hub_model(settings.model):
        with shown(f"block {span.start} of {spec.name}", say) as on_progress:
            directory = fetch_span(on_hub, directory, span, on_progress)
    dtype = choose_dtype(settings.dtype, device)
    return load_span(directory, span, dtype=dtype, device=device, quant=settings.quant)
