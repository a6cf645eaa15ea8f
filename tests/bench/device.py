"""Decode speed on a device, against transformers' `generate` and the memory's bandwidth.

A random llama of an 8B's shape that never touches the disk: as one span, and as four whose hidden
states leave the device between them as on their way to other workers. One session and many in
step, bfloat16 weights and nf4. The limit is what reading all weights once a step would take.
`python -m tests.bench.device [--device cpu --blocks 2 --width 256]`
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from shared.swarm import SessionId, Span
from shared.wire.messages import Sampling
from tests.bench.tables import show
from worker.capacity import new_cache
from worker.kv_cache import PAGE_TOKENS, KvCache
from worker.sampling import sample
from worker.span_model import SpanModel
from worker.tensors import from_payload, name_of, to_payload

VOCABULARY = 32_000
NUM_SPANS = 4
COPIED_BYTES = 1 << 28
GREEDY = Sampling(temperature=0)

Decode = Callable[[int, int], object]
"""Makes so many tokens for so many sessions."""


def random_llama(blocks: int, width: int, device: torch.device) -> PreTrainedModel:
    """In bfloat16; at a width of 4096 its blocks are those of Llama 3 8B."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 7 // 2,
        num_hidden_layers=blocks,
        num_attention_heads=width // 128,
        num_key_value_heads=max(1, width // 512),
        max_position_embeddings=4096,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def quantize(model: nn.Module) -> None:
    """Make nf4 of every linear layer but the head, in place."""
    for name, module in list(model.named_modules()):
        if type(module) is not nn.Linear or name == "lm_head":
            continue
        linear: Any = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16
        )
        packed = bnb.nn.Params4bit(module.weight.data.cpu(), quant_type="nf4", requires_grad=False)
        linear.weight = packed.to(module.weight.device)
        model.set_submodule(name, linear)


def by_transformers(model: Any, prompt: Tensor) -> Decode:
    """`generate`, greedy."""

    def decode(sessions: int, tokens: int) -> None:
        ids = prompt.expand(sessions, -1)
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
        )

    return decode


class Spans:
    """A model cut into spans that run one after the other, as workers in a row do."""

    def __init__(self, model: SpanModel, num_spans: int, prompt: Tensor) -> None:
        size = -(-model.num_blocks // num_spans)
        starts = range(0, model.num_blocks, size)
        self._spans = [Span(start, min(start + size, model.num_blocks)) for start in starts]
        self._model = model
        self._prompt = prompt[0].cpu().int()

    def decode(self, sessions: int, tokens: int) -> None:
        """Prefill all, then decode all in step."""
        length = len(self._prompt)
        cache = new_cache(self._model, sessions * -(-(length + tokens) // PAGE_TOKENS))
        for session in range(sessions):
            chosen = self._step(cache, range(session, session + 1), self._prompt, 0)
        row = torch.tensor(chosen * sessions, dtype=torch.int32)
        for position in range(length, length + tokens - 1):
            chosen = self._step(cache, range(sessions), row, position)
            row = torch.tensor(chosen, dtype=torch.int32)

    def _step(self, cache: KvCache, sessions: range, inputs: Tensor, position: int) -> list[int]:
        """Each session's next token."""
        count = len(inputs) // len(sessions)
        pages = -(-(position + count) // PAGE_TOKENS)
        whole = self._model.span
        keys = [(SessionId(number.to_bytes(16, "big")), whole) for number in sessions]
        segments = [cache.segment(key, position, count, pages) for key in keys]
        keep = range(count - 1, len(inputs), count)
        for span in self._spans[:-1]:
            hidden = self._model.run(inputs, segments, span, [])
            payload = memoryview(to_payload(hidden))
            inputs = from_payload(payload, name_of(hidden.dtype), tuple(hidden.shape))
        logits = self._model.run(inputs, segments, self._spans[-1], keep)
        for segment in segments:
            segment.cache.length = segment.end
        return sample(logits, [GREEDY] * len(sessions), [position + count] * len(sessions))


def step_seconds(decode: Decode, sessions: int, tokens: int, rounds: int) -> float:
    """Of one decode step: the least of some rounds, prefill subtracted."""
    decode(sessions, 4)
    return min(_once(decode, sessions, tokens) for _ in range(rounds))


def _once(decode: Decode, sessions: int, tokens: int) -> float:
    started = time.perf_counter()
    decode(sessions, 1)
    first = time.perf_counter()
    decode(sessions, tokens + 1)  # its last token is on the host, so the device is done
    return (time.perf_counter() - first - (first - started)) / tokens


def bandwidth(device: torch.device) -> float:
    """Bytes a second that copying within the device's memory reads and writes."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        target.copy_(source)
        target[:1].cpu()
        best = min(best, time.perf_counter() - started)
    return 2 * COPIED_BYTES / best


def rows_of(
    weights: str, options: argparse.Namespace, device: torch.device, bytes_a_second: float
) -> list[list[str]]:
    """The table's rows for one kind of weights."""
    model = random_llama(options.blocks, options.width, device)
    if weights == "nf4":
        quantize(model)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(10, VOCABULARY, (1, options.prompt), generator=generator).to(device)
    measure = [(n, options.tokens, options.rounds) for n in options.sessions]
    theirs = [step_seconds(by_transformers(model, prompt), *each) for each in measure]
    span = SpanModel(model, Span(0, options.blocks))  # from here on it attends in our way
    least = span.weight_bytes / bytes_a_second
    ways: dict[str, Sequence[float]] = {"generate": theirs}
    for name, num_spans in (("one span", 1), (f"{NUM_SPANS} spans", NUM_SPANS)):
        decode = Spans(span, num_spans, prompt).decode
        ways[name] = [step_seconds(decode, *each) for each in measure]
    return [
        [
            *(weights, name, str(sessions), f"{1000 * seconds:.2f}", f"{sessions / seconds:.0f}"),
            *(f"{base / seconds:.2f}", f"{least / seconds:.2f}"),
        ]
        for name, times in ways.items()
        for sessions, seconds, base in zip(options.sessions, times, theirs, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--weights", nargs="+", default=["bfloat16", "nf4"])
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    speed = bandwidth(device)
    show(
        f"{name}, {speed / 1e9:.0f} GB/s: decode of {options.blocks} blocks of {options.width}",
        ["weights", "by", "sessions", "ms a step", "tokens/s", "times generate", "of the limit"],
        [row for weights in options.weights for row in rows_of(weights, options, device, speed)],
    )


if __name__ == "__main__":
    main()
