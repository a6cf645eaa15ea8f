"""A whole model on one span in this process, behind a worker's engine, for benchmarks."""

from collections.abc import Sequence
from concurrent.futures import Future
from itertools import count
from pathlib import Path

import torch
from transformers import AutoConfig

from shared.swarm import SessionId, Span
from shared.wire.messages import Sampling, SamplingContext
from worker.engine import Engine
from worker.kv_cache import PAGE_TOKENS
from worker.weights import load_span
from worker.work import Outcome, Work

GREEDY = SamplingContext(Sampling(temperature=0))


class Whole:
    """Runs one session at a time, greedily, waiting for each step."""

    def __init__(self, directory: Path, dtype: str, *, max_tokens: int) -> None:
        self.span = Span(0, AutoConfig.from_pretrained(directory).num_hidden_layers)
        self.model = load_span(
            directory, self.span, dtype=getattr(torch, dtype), device=torch.device("cpu")
        )
        self._pages = -(-max_tokens // PAGE_TOKENS)
        self._engine = Engine(self.model, max_step_tokens=max_tokens)
        self._engine.start()
        self._sessions = count()

    def generate(self, prompt: Sequence[int], tokens: int, *, piece: int | None = None) -> None:
        """Prefill in pieces of so many tokens, or in one, then decode to so many new tokens."""
        key = SessionId(next(self._sessions).to_bytes(16, "big")), self.span
        size, token = piece or len(prompt), 0
        for start in range(0, len(prompt), size):
            token = self._step(key, start, prompt[start : start + size])
        for position in range(len(prompt), len(prompt) + tokens - 1):
            token = self._step(key, position, [token])
        self._engine.free([key])

    def stop(self) -> None:
        """End the engine's thread."""
        self._engine.stop()

    def _step(self, key: tuple[SessionId, Span], position: int, ids: Sequence[int]) -> int:
        done: Future[Outcome] = Future()
        payload = torch.tensor(ids, dtype=torch.int32).numpy().tobytes()
        self._engine.submit(
            Work(
                key=key,
                position=position,
                count=len(ids),
                pages=self._pages,
                payload=memoryview(payload),
                dtype="int32",
                sample=(position + len(ids) - 1,),
                context=GREEDY,
                on_done=done.set_result,
                on_failed=done.set_exception,
            )
        )
        return done.result().token_ids[0]
