"""Tries a family on a tiny random model of it: do spans and batches give the whole model's numbers?

Flags do not tell: `_supports_attention_backend` is wrong for ten families of transformers 5.23.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from shared.swarm import Span
from worker.families import BATCHED, REFUSED, Verdict, refusal
from worker.kv_cache import Segment, Slab
from worker.packing import PACKINGS, can_pack, pack
from worker.pruning import drop_unused_embedding, prune
from worker.shrink import NUM_BLOCKS, tiny_config
from worker.span_model import SpanModel

SPANS = (Span(0, 2), Span(2, 4), Span(4, NUM_BLOCKS))
LENGTHS = (21, 3, 13)  # longer and shorter than the windows and chunks of 8
TOLERANCE = 1e-4
MAX_PARAMETERS = 20_000_000

_WHY_ALONE = "its blocks do not take our attention, so each session needs a cache of its own"

_VERDICTS = (
    BATCHED,
    Verdict("alone", _WHY_ALONE),
    Verdict("alone", _WHY_ALONE, continues=False),
)
"""How a family may be served, the best first."""

Piece = tuple[int, int, int]
"""(session, start, end): these tokens of that session."""

ROUNDS: tuple[tuple[Piece, ...], ...] = (
    ((0, 0, 15), (1, 0, 1), (2, 0, 6)),  # prefills of any length together
    ((1, 1, 2), (0, 15, 16)),  # decodes, in another order
    ((0, 16, 17), (1, 2, 3), (2, 6, 12)),  # decodes and a chunk that goes on
    ((2, 12, 13), (0, 17, 21)),
)
REWIND: tuple[tuple[Piece, ...], ...] = (((0, 10, 21), (2, 12, 13)),)


def judge(config: PretrainedConfig) -> Verdict:
    """How the family of `config`, in the variant that `config` chooses, is served."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return Verdict("refused", "it is no causal language model")
    if reason := refusal(config):
        return Verdict("refused", reason)
    try:
        return _remembered(tiny_config(config.model_type, config))
    except Exception:  # a real config's switches may not fit the tiny sizes
        return judge_family(config.model_type)


def judge_family(model_type: str) -> Verdict:
    """How a family is served, in the variant that its config class makes by itself."""
    if reason := REFUSED.get(model_type):
        return Verdict("refused", reason)
    try:
        return _remembered(tiny_config(model_type))
    except Exception as error:  # transformers' configs and models raise anything
        return Verdict("refused", f"no tiny model of it can be tried: {_said(error)}")


def _remembered(tiny: PretrainedConfig) -> Verdict:
    key = tiny.to_json_string()
    if key not in _verdicts:
        with _one_thread():
            _verdicts[key] = try_spans(tiny)
    return _verdicts[key]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from more threads, and on a busy machine lose all (20 times)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_verdicts: dict[str, Verdict] = {}
_packing = next(filter(can_pack, PACKINGS), None)
"""Of those there are the one that leaves the least of a layer to code that looks into it."""


def try_spans(config: PretrainedConfig) -> Verdict:
    """What spans of a random model of this config show. Raises when there can be no such model."""
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    if (size := sum(parameter.numel() for parameter in skeleton.parameters())) > MAX_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters are not tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = random_model(config)
        tokens = [torch.randint(3, config.vocab_size, (n,)) for n in LENGTHS]
    expected = [_whole(model, ids) for ids in tokens]
    why = ""
    for verdict, packs in product(_VERDICTS, (True, False) if _packing else (True,)):
        verdict = replace(verdict, packs=packs)
        why = _difference(model, verdict, tokens, expected)
        if not why:
            return verdict
    return Verdict("refused", f"spans of it do not give the whole model's numbers: {why}")


def random_model(config: PretrainedConfig) -> PreTrainedModel:
    """A float32 model whose outputs vary enough that a mistake shows.

    Its matrices are numbers of bfloat16, as those of checkpoints are, so that they can be packed.
    """
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.dim() > 1:
                parameter.copy_(2.0 * parameter.bfloat16())
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@torch.inference_mode()
def _whole(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens[None], use_cache=False).logits[0]


def _difference(
    model: PreTrainedModel,
    verdict: Verdict,
    tokens: Sequence[Tensor],
    expected: Sequence[Tensor],
) -> str:
    """What goes wrong when spans of `model` run all rounds in a row; "" when nothing does."""
    rounds = (*ROUNDS, *REWIND) if verdict.state == "batched" else _one_by_one(ROUNDS)
    try:
        line = [SpanModel(_part(model, span, verdict), span, verdict) for span in SPANS]
        slabs = [[Slab(64) for _ in tokens] for _ in SPANS]
        for number, pieces in enumerate(rounds):
            found = torch.cat([tokens[i][a:b] for i, a, b in pieces])
            for part, span, caches in zip(line, SPANS, slabs, strict=True):
                segments = [Segment(caches[i], a, b - a) for i, a, b in pieces]
                inputs, found = found, part.run(found, segments, span, range(len(found)))
                if number == 0 and part.batches:  # go on with caches that were only filled
                    caches[:] = [Slab(64) for _ in tokens]
                    segments = [Segment(caches[i], a, b - a) for i, a, b in pieces]
                    part.fill(inputs, segments, span)
            wanted = torch.cat([expected[i][a:b] for i, a, b in pieces])
            worst = (found - wanted).abs().max().item()
            if not worst <= TOLERANCE * max(1.0, wanted.abs().max().item()):
                return f"the numbers differ by {worst:.1g}"
    except Exception as error:  # transformers' models raise anything
        return _said(error)
    return ""


def _part(model: PreTrainedModel, span: Span, verdict: Verdict) -> PreTrainedModel:
    part = copy.deepcopy(model)
    prune(part, span)
    if span.start > 0:
        drop_unused_embedding(part)
    if verdict.packs and _packing:
        pack(part, _packing, torch.float32)
    return part


def _one_by_one(rounds: Sequence[Sequence[Piece]]) -> list[list[Piece]]:
    return [[piece] for pieces in rounds for piece in pieces]


def _said(error: Exception) -> str:
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}"
