"""Loads a worker's span and measures it, saying what goes on."""

import gc
import time
from dataclasses import dataclass

from shared.model_files import hub_model, locate
from shared.pace import BATCHES, UNMEASURED, Pace
from shared.swarm import ModelSpec, Span
from worker.capacity import choose_device, choose_dtype, new_cache, pages_that_fit, use_threads
from worker.fetch import fetch_span
from worker.grammar import Grammars
from worker.hosting import spec_of
from worker.kv_cache import PAGE_TOKENS, KvCache
from worker.mapped_memory import forget_code, trim
from worker.measuring import measure_pace
from worker.progress import shown
from worker.saying import say
from worker.settings import WorkerSettings
from worker.span_model import SpanModel
from worker.weights import load_span


@dataclass(frozen=True)
class Loaded:
    """A span in memory and what is known of its model."""

    spec: ModelSpec
    model: SpanModel
    pages: int
    grammars: Grammars | None = None
    cache: KvCache | None = None
    pace: Pace = UNMEASURED


def load(settings: WorkerSettings, span: Span) -> Loaded:
    """Load a span, saying what goes on. Raises ConfigError or ModelError."""
    use_threads(settings.threads)
    directory = locate(settings.model)
    spec = spec_of(settings)
    device = choose_device(settings.device)
    grammars = Grammars.load(directory) if span.end == spec.num_blocks else None
    if on_hub := hub_model(settings.model):
        with shown(f"blocks {span} of {spec.name}", say) as on_progress:
            directory = fetch_span(on_hub, directory, span, on_progress)
    if settings.quant == "int8" and device.type == "cpu":
        say("int8 computes at about a tenth of the speed on CPU; nf4 at half is smaller, too")
    started = time.perf_counter()
    model = load_span(
        directory,
        span,
        dtype=choose_dtype(settings.dtype, device),
        device=device,
        quant=settings.quant,
        on_plan=lambda tensors, size: say(
            f"loading blocks {span} of {spec.name}: {tensors} tensors, {size / 1e6:.1f} MB"
        ),
        on_pack=lambda: say("packing weights for this processor, some 0.1 GB a second and core"),
    )
    pages = pages_that_fit(model, settings.kv_tokens)
    cache = new_cache(model, pages)
    say(
        f"loaded in {time.perf_counter() - started:.1f} s on {device} as {model.dtype}"
        + (f" with {settings.quant} weights" if settings.quant != "none" else "")
        + (f" with {model.packing.said}" if model.packing else "")
        + f": {model.weight_bytes / 1e6:.1f} MB; "
        f"room for {pages * PAGE_TOKENS} tokens of cache"
    )
    if model.max_positions < getattr(model.config, "max_position_embeddings", 0):
        say(
            f"serving texts of up to {model.max_positions} tokens: the model's rotary embeddings "
            "change where texts get longer, for what came before too"
        )
    pace = measure_pace(model, cache, pages)
    say(
        f"a block takes {1000 * pace.decode[0]:.2f} ms a token, "
        f"{1000 * pace.decode[-1]:.2f} ms for {BATCHES[-1]} sessions at once, "
        f"{1e6 * pace.prefill:.0f} µs for a token of a prompt"
    )
    gc.collect()
    trim()
    forget_code()
    return Loaded(spec, model, pages, grammars, cache, pace)
